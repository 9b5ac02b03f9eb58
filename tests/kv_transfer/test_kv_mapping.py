"""Layout mapping against a reference that moves one row at a time through a dense cache."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.mapping import Mapping, region_extents, source_extents
from kv_transfer.plan import Piece
from wire.kv import KVLayout, mapping_refusal

NUM_BLOCKS = 40

block_sizes = st.sampled_from([1, 2, 4, 6, 16])


def share(draw, layout, model_heads):
    """A worker's share of the heads, any contiguous one."""
    first = draw(st.integers(0, model_heads - 1))
    count = draw(st.integers(1, model_heads - first))
    if count == model_heads:
        return replace(layout, num_kv_heads=count)
    return replace(layout, num_kv_heads=count, first_kv_head=first, total_kv_heads=model_heads)


@st.composite
def pulls(draw):
    is_latent = draw(st.booleans())
    model_heads = 1 if is_latent else draw(st.integers(1, 4))
    dim = draw(st.integers(1, 3))
    sides = []
    num_tokens = draw(st.integers(1, 30))
    for _ in range(2):
        base = KVLayout(2, NUM_BLOCKS, 1, draw(block_sizes), dim, "bfloat16", is_latent=is_latent)
        layout = share(draw, base, model_heads)
        count = -(-num_tokens // layout.block_size)
        sides.append((layout, draw(st.permutations(range(NUM_BLOCKS)))[:count]))
    (source, source_blocks), (target, target_blocks) = sides
    skip = draw(st.integers(0, len(target_blocks))) * target.block_size
    return source, source_blocks, target, target_blocks, num_tokens, skip


def rows(layout, blocks, num_tokens):
    """(layer, part, model head, token) -> where that row starts in the pool."""
    size = layout.block_size
    shape = (layout.num_layers, NUM_BLOCKS, layout.num_parts, layout.num_kv_heads, size)
    return {
        (layer, part, layout.first_kv_head + head, token): layout.row_bytes
        * int(np.ravel_multi_index((layer, blocks[token // size], part, head, token % size), shape))
        for layer in range(layout.num_layers)
        for part in range(layout.num_parts)
        for head in range(layout.num_kv_heads)
        for token in range(num_tokens)
    }


@settings(max_examples=300)
@given(pulls())
def test_every_row_that_both_sides_hold_moves_once_to_its_place(pull):
    source, source_blocks, target, target_blocks, num_tokens, skip = pull
    mapping = Mapping.of(source, target, num_tokens, skip)
    piece = mapping.piece(num_tokens, skip)
    from_rows, to_rows = (
        rows(source, source_blocks, num_tokens),
        rows(target, target_blocks, num_tokens),
    )
    want = {
        (from_rows[row], to_rows[row]) for row in from_rows if row in to_rows and row[3] >= skip
    }
    copies = mapping.copies(piece, source_blocks, target_blocks)
    got = [(a + at, b + at) for a, b, size in copies for at in range(0, size, source.row_bytes)]
    assert len(got) == len(set(got))
    if mapping.window is None:
        assert want <= set(got)  # whole regions move, with what lies behind the last token
    else:
        assert set(got) == want
    assert sum(size for _, _, size in copies) == mapping.num_bytes(piece)
    assert set(mapping.heads) == set(source.kv_heads) & set(target.kv_heads)


@settings(max_examples=200)
@given(pulls(), st.data())
def test_both_sides_walk_a_piece_in_the_same_order(pull, data):
    source, source_blocks, target, target_blocks, num_tokens, skip = pull
    mapping = Mapping.of(source, target, num_tokens, skip)
    whole = mapping.piece(num_tokens, skip)
    if not whole.num_regions:
        return
    first = data.draw(st.integers(whole.first_index, whole.end_index - 1))
    piece = Piece(0, 1, first, data.draw(st.integers(first + 1, whole.end_index)))
    taken = list(source_extents(piece, source, source_blocks, mapping.window))
    given_to = list(mapping.target_extents(piece, target_blocks))
    size_bytes = mapping.num_bytes(piece)
    assert sum(size for _, size in taken) == sum(size for _, size in given_to) == size_bytes
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, source.pool_bytes, dtype=np.uint8)
    streamed, copied = (np.zeros(target.pool_bytes, np.uint8) for _ in range(2))
    stream = b"".join(pool[at : at + size].tobytes() for at, size in taken)
    at = 0
    for offset, size in given_to:
        streamed[offset : offset + size] = np.frombuffer(stream[at : at + size], np.uint8)
        at += size
    for a, b, size in mapping.copies(piece, source_blocks, target_blocks):
        copied[b : b + size] = pool[a : a + size]
    assert np.array_equal(streamed, copied)


@settings(max_examples=200)
@given(pulls())
def test_extents_are_as_few_as_their_bytes_allow(pull):
    source, source_blocks, target, target_blocks, num_tokens, skip = pull
    mapping = Mapping.of(source, target, num_tokens, skip)
    piece = mapping.piece(num_tokens, skip)
    walks = [
        list(source_extents(piece, source, source_blocks, mapping.window)),
        list(mapping.target_extents(piece, target_blocks)),
    ]
    if mapping.window is not None:
        assert all(
            a + size != b
            for walk in walks
            for (a, size), (b, _) in zip(walk, walk[1:], strict=False)
        )


@settings(max_examples=200)
@given(pulls())
def test_a_regions_extents_are_the_walk_over_a_piece_of_one(pull):
    source, source_blocks, target, _, num_tokens, skip = pull
    mapping = Mapping.of(source, target, num_tokens, skip)
    piece = mapping.piece(num_tokens, skip)
    if mapping.window is None:
        return
    for index in range(piece.first_index, piece.end_index):
        one = Piece(1, 2, index, index + 1)
        walk = source_extents(one, source, source_blocks, mapping.window)
        want = [offset + at for offset, size in walk for at in range(size)]
        got = region_extents(source, 1, source_blocks[index], index, mapping.window)
        assert [offset + at for offset, size in got for at in range(size)] == want


GQA = KVLayout(28, 64, 8, 16, 128, "bfloat16")
MLA = KVLayout(28, 64, 1, 16, 576, "bfloat16", is_latent=True)


@pytest.mark.parametrize(
    "other",
    [
        replace(GQA, num_layers=27),
        replace(GQA, head_dim=64),
        replace(GQA, dtype="float32"),
        replace(GQA, num_kv_heads=4),
        replace(GQA, num_kv_heads=1, head_dim=128, is_latent=True),
    ],
)
def test_another_model_cannot_be_mapped(other):
    assert mapping_refusal(GQA, other)
    assert mapping_refusal(other, GQA)


@pytest.mark.parametrize(
    "other",
    [
        replace(GQA, num_blocks=9),
        replace(GQA, block_size=64),
        replace(GQA, num_kv_heads=2, first_kv_head=4, total_kv_heads=8),
    ],
)
def test_other_blocks_and_shares_of_the_heads_can_be_mapped(other):
    assert not mapping_refusal(GQA, other)
    assert not mapping_refusal(other, GQA)


def test_a_latent_cache_has_one_vector_a_token():
    assert MLA.region_bytes == 16 * 576 * 2
    assert GQA.region_bytes == 2 * 8 * 16 * 128 * 2


@given(pulls())
def test_a_signature_says_all_that_a_mapping_needs(pull):
    for layout in (pull[0], pull[2]):
        assert KVLayout.from_signature(layout.signature, NUM_BLOCKS) == layout


@given(st.one_of(st.text(max_size=30), st.from_regex(r"L\d+H\d+B\d+D\d+:float32(:\d+/\d+)?")))
def test_any_text_is_a_layout_or_a_value_error(text):
    try:
        layout = KVLayout.from_signature(text, 4)
    except ValueError:
        return
    assert layout.region_bytes > 0
    assert layout.kv_heads.stop <= layout.num_model_heads


def test_equal_shapes_move_whole_regions():
    mapping = Mapping.of(GQA, replace(GQA, num_blocks=9), 100, 32)
    assert mapping.window is None
    assert mapping.piece(100, 32) == Piece(0, 28, 2, 7)


def test_a_share_that_the_reader_does_not_hold_moves_nothing():
    left = replace(GQA, num_kv_heads=4, total_kv_heads=8)
    right = replace(left, first_kv_head=4)
    mapping = Mapping.of(left, right, 100, 0)
    assert mapping.num_bytes(mapping.piece(100, 0)) == 0
    assert not len(mapping.copies(mapping.piece(100, 0), range(7), range(7)))
