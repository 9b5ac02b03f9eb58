"""Copies, pieces and watermarks against slow, obvious references."""

from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.plan import Cursor, Piece, Watermark, extents, plan_copies
from wire.kv import KVLayout

SOURCE = KVLayout(5, 40, 1, 16, 1, "float32")
TARGET = KVLayout(5, 30, 1, 16, 1, "float32")

block_lists = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        st.permutations(range(SOURCE.num_blocks)).map(lambda ids: ids[:count]),
        st.one_of(
            st.permutations(range(TARGET.num_blocks)).map(lambda ids: ids[:count]),
            st.integers(0, TARGET.num_blocks - count).map(lambda at: list(range(at, at + count))),
        ),
    )
)


@st.composite
def reads(draw: st.DrawFn) -> tuple[list[int], list[int], Piece]:
    source, target = draw(block_lists)
    if draw(st.booleans()):
        source = list(range(len(source)))
    first_layer = draw(st.integers(0, SOURCE.num_layers - 1))
    first_index = draw(st.integers(0, len(source) - 1))
    piece = Piece(
        first_layer,
        draw(st.integers(first_layer + 1, SOURCE.num_layers)),
        first_index,
        draw(st.integers(first_index + 1, len(source))),
    )
    return source, target, piece


@given(reads())
def test_a_plan_moves_each_byte_once_and_to_its_place(read):
    source, target, piece = read
    size = SOURCE.region_bytes
    want = {
        (
            SOURCE.offset_bytes(layer, source[at]) + byte,
            TARGET.offset_bytes(layer, target[at]) + byte,
        )
        for layer in range(piece.first_layer, piece.end_layer)
        for at in range(piece.first_index, piece.end_index)
        for byte in (0, size - 1)
    }
    copies = plan_copies(piece, SOURCE, source, TARGET, target)
    got = [
        (source_offset + start + byte, target_offset + start + byte)
        for source_offset, target_offset, num_bytes in copies
        for start in range(0, num_bytes, size)
        for byte in (0, size - 1)
    ]
    assert len(got) == len(set(got)) == 2 * piece.num_regions
    assert set(got) == want


@given(reads())
def test_neighbours_on_both_sides_are_one_copy(read):
    source, target, piece = read
    copies = plan_copies(piece, SOURCE, source, TARGET, target)
    num_breaks = sum(
        source[at] + 1 != source[at + 1] or target[at] + 1 != target[at + 1]
        for at in range(piece.first_index, piece.end_index - 1)
    )
    assert len(copies) == (num_breaks + 1) * (piece.end_layer - piece.first_layer)


@given(reads())
def test_extents_name_a_piece_in_order(read):
    source, _, piece = read
    size = SOURCE.region_bytes
    want = [
        SOURCE.offset_bytes(layer, source[at])
        for layer in range(piece.first_layer, piece.end_layer)
        for at in range(piece.first_index, piece.end_index)
    ]
    got = [
        offset + start
        for offset, num_bytes in extents(piece, SOURCE, source)
        for start in range(0, num_bytes, size)
    ]
    assert got == want


@given(
    num_layers=st.integers(1, 6),
    num_blocks=st.integers(1, 12),
    skip=st.integers(0, 12),
    steps=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 6)), max_size=8),
    most=st.integers(1, 20),
)
def test_a_cursor_takes_every_region_once_and_never_ahead_of_the_watermark(
    num_layers, num_blocks, skip, steps, most
):
    num_tokens = num_blocks * 16 - 3
    sender, checker = (
        Cursor(Piece(0, num_layers, min(skip, num_blocks), num_blocks)) for _ in range(2)
    )
    taken: set[tuple[int, int]] = set()
    mark = Watermark()
    for tokens, layers in [*steps, (num_tokens, num_layers)]:
        mark = mark.advanced(min(tokens, num_tokens), min(layers, num_layers), num_layers)
        ready = [mark.ready_blocks(layer, num_tokens, 16) for layer in range(num_layers)]
        while (piece := sender.take(ready, most)) is not None:
            assert piece.num_regions <= most
            assert checker.accept(piece)
            assert not checker.accept(piece)
            for layer in range(piece.first_layer, piece.end_layer):
                assert piece.end_index <= ready[layer]
                new = {(layer, at) for at in range(piece.first_index, piece.end_index)}
                assert not new & taken
                taken |= new
    assert sender.num_left == checker.num_left == 0
    assert taken == {(layer, at) for layer in range(num_layers) for at in range(skip, num_blocks)}


@given(piece=st.builds(Piece, *[st.integers(0, 8)] * 4))
def test_a_cursor_refuses_a_piece_that_does_not_come_next(piece):
    cursor = Cursor(Piece(1, 4, 2, 6))
    fits = 1 <= piece.first_layer < piece.end_layer <= 4 and piece.first_index == 2
    assert cursor.accept(piece) == (fits and 2 < piece.end_index <= 6)


spans = st.tuples(st.integers(0, 2), st.integers(1, 2)).map(lambda span: (span[0], sum(span)))
small_pieces = st.tuples(spans, spans).map(lambda sides: Piece(*sides[0], *sides[1]))


@given(small_pieces, small_pieces)
def test_joined_pieces_are_the_regions_of_both(one, other):
    def regions(piece: Piece) -> set[tuple[int, int]]:
        indices = range(piece.first_index, piece.end_index)
        layers = range(piece.first_layer, piece.end_layer)
        return {(layer, index) for layer in layers for index in indices}

    both = regions(one) | regions(other)
    hull = Piece(
        min(layer for layer, _ in both),
        max(layer for layer, _ in both) + 1,
        min(index for _, index in both),
        max(index for _, index in both) + 1,
    )
    follows = not regions(one) & regions(other) and min(both) in regions(one)
    assert one.joined(other) == (hull if follows and regions(hull) == both else None)


def test_a_watermark_frees_layers_of_a_chunk_before_the_chunk_is_done():
    mark = Watermark(16)
    assert [mark.ready_tokens(layer) for layer in range(3)] == [16, 16, 16]
    mark = mark.advanced(48, 2, 3)
    assert [mark.ready_tokens(layer) for layer in range(3)] == [48, 48, 16]
    assert mark.advanced(48, 1, 3) == mark
    mark = mark.advanced(48, 3, 3)
    assert [mark.ready_tokens(layer) for layer in range(3)] == [48, 48, 48]
    assert mark.advanced(32, 3, 3).ready_tokens(0) == 48


def test_a_partial_last_block_is_readable_only_when_every_token_is_computed():
    assert Watermark(69).ready_blocks(0, 70, 16) == 4
    assert Watermark(70).ready_blocks(0, 70, 16) == 5
    assert Watermark(64).ready_blocks(0, 64, 16) == 4
