"""Layout mapping: which bytes of one pool go where in a pool of another shape. Pure.

    source block 0             source block 1          block_size 4, heads 0..3
    [h0 t0123][h1 t0123]...    [h0 t4567]...
       |   |     not read         |   |
    [h0 t01] [h0 t23] ...      [h0 t45] [h0 t67]       block_size 2, heads 0..1
    target block 0, block 1, ...

The smallest thing that moves is a row: one token, one head, K or V. Both sides walk the rows of a
region in one order (K or V, head, token), so a stream of bytes needs no addresses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kv_transfer.plan import CopyTable, Piece, extents, plan_copies
from wire.kv import KVLayout, mapping_refusal

Extent = tuple[int, int]
"""Offset in a pool, bytes."""


@dataclass(frozen=True, slots=True)
class Window:
    """What one reader takes of a prompt: heads as the source counts its own, and tokens."""

    first_head: int
    end_head: int
    first_token: int
    end_token: int

    def fits(self, layout: KVLayout, num_tokens: int) -> bool:
        return (
            0 <= self.first_head <= self.end_head <= layout.num_kv_heads
            and 0 <= self.first_token <= self.end_token <= num_tokens
        )

    def is_whole(self, layout: KVLayout, index: int) -> bool:
        """All of block `index` of the prompt is read."""
        start = index * layout.block_size
        return (
            self.end_head - self.first_head == layout.num_kv_heads
            and self.first_token <= start
            and start + layout.block_size <= self.end_token
        )

    def tokens(self, layout: KVLayout, index: int) -> range:
        """The tokens of the prompt that are read in block `index`."""
        start = index * layout.block_size
        return range(max(start, self.first_token), min(start + layout.block_size, self.end_token))

    def num_tokens(self, layout: KVLayout, first_index: int, end_index: int) -> int:
        """Tokens that are read in these blocks."""
        start = max(first_index * layout.block_size, self.first_token)
        return max(0, min(end_index * layout.block_size, self.end_token) - start)


@dataclass(frozen=True, slots=True)
class Mapping:
    """How one pull reads `source` into `target`. Pieces index the source's blocks.

    window: None where the two shapes are equal, and whole regions move.
    """

    source: KVLayout
    target: KVLayout
    window: Window | None

    @classmethod
    def of(
        cls, source: KVLayout, target: KVLayout, num_tokens: int, num_skip_tokens: int
    ) -> "Mapping":
        """For a prompt of which the target holds the first `num_skip_tokens`."""
        assert not mapping_refusal(source, target)
        if source.signature == target.signature:
            return cls(source, target, None)
        first = max(source.kv_heads.start, target.kv_heads.start)
        end = max(first, min(source.kv_heads.stop, target.kv_heads.stop))
        base = source.first_kv_head
        skip = min(num_skip_tokens, num_tokens)
        window = Window(first - base, end - base, skip, num_tokens)
        if first == end:
            window = Window(0, 0, num_tokens, num_tokens)
        return cls(source, target, window)

    @property
    def heads(self) -> range:
        """The model's KV heads that this pull brings."""
        if self.window is None:
            return self.source.kv_heads
        base = self.source.first_kv_head
        return range(base + self.window.first_head, base + self.window.end_head)

    @property
    def window_on_wire(self) -> tuple[int, int, int, int] | None:
        window = self.window
        if window is None:
            return None
        return window.first_head, window.end_head, window.first_token, window.end_token

    def piece(self, num_tokens: int, num_skip_tokens: int) -> Piece:
        """All that is to be read."""
        size = self.source.block_size
        num_blocks = -(-num_tokens // size)
        skip = self.window.first_token if self.window is not None else num_skip_tokens
        return Piece(0, self.source.num_layers, min(skip // size, num_blocks), num_blocks)

    def num_bytes(self, piece: Piece) -> int:
        """Bytes of the piece that move."""
        if self.window is None:
            return piece.num_regions * self.source.region_bytes
        per_token = self.source.num_parts * len(self.heads) * self.source.row_bytes
        num_layers = piece.end_layer - piece.first_layer
        tokens = self.window.num_tokens(self.source, piece.first_index, piece.end_index)
        return num_layers * tokens * per_token

    def target_extents(self, piece: Piece, target_blocks: Sequence[int]) -> Iterator[Extent]:
        """Where the bytes of `source_extents` go, in their order, neighbours joined."""
        if self.window is None:
            return extents(piece, self.target, target_blocks)
        steps = _Steps.of(piece, self.source, self.window, self.target.block_size)
        starts = steps.offsets(self.target, target_blocks, self.heads.start)
        return zip(*_joined(steps.sizes(self.target), starts), strict=True)

    def copies(
        self, piece: Piece, source_blocks: Sequence[int], target_blocks: Sequence[int]
    ) -> CopyTable:
        """The copies of `piece` where both pools can be addressed."""
        if self.window is None:
            return plan_copies(piece, self.source, source_blocks, self.target, target_blocks)
        steps = _Steps.of(piece, self.source, self.window, self.target.block_size)
        taken = steps.offsets(self.source, source_blocks, self.heads.start)
        given = steps.offsets(self.target, target_blocks, self.heads.start)
        return np.array(_joined(steps.sizes(self.source), taken, given), np.int64).T


def source_extents(
    piece: Piece, layout: KVLayout, blocks: Sequence[int], window: Window | None
) -> Iterator[Extent]:
    """(offset, bytes) of what is read of `piece` in its pool, in order, neighbours joined."""
    if window is None:
        return extents(piece, layout, blocks)
    steps = _Steps.of(piece, layout, window, layout.block_size)
    first_head = layout.first_kv_head + window.first_head
    return zip(
        *_joined(steps.sizes(layout), steps.offsets(layout, blocks, first_head)), strict=True
    )


def region_extents(
    layout: KVLayout, layer: int, block: int, index: int, window: Window
) -> list[Extent]:
    """What is read of the region (layer, block), which is the prompt's block `index`."""
    start = layout.offset_bytes(layer, block)
    if window.is_whole(layout, index):
        return [(start, layout.region_bytes)]
    tokens, size = window.tokens(layout, index), layout.block_size
    if not tokens:
        return []
    first_row = tokens.start - index * size
    return [
        (start + (slot * size + first_row) * layout.row_bytes, len(tokens) * layout.row_bytes)
        for part in range(layout.num_parts)
        for slot in range(
            part * layout.num_kv_heads + window.first_head,
            part * layout.num_kv_heads + window.end_head,
        )
    ]


_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Steps:
    """The walk over a piece that both sides share, without addresses: one step is a run of tokens
    of one head that lies in one block on either side.

    tokens, lengths, parts, heads: of the steps of one layer, in order. [num_steps]
    """

    layers: _Ints
    tokens: _Ints
    lengths: _Ints
    parts: _Ints
    heads: _Ints  # counted from the window's first

    @classmethod
    def of(cls, piece: Piece, source: KVLayout, window: Window, other_size: int) -> "_Steps":
        """other_size: the block size of the other side."""
        size = source.block_size
        start = max(piece.first_index * size, window.first_token)
        stop = max(start, min(piece.end_index * size, window.end_token))
        cuts = [np.arange(start - start % step, stop, step) for step in (size, other_size)]
        tokens = np.unique(np.concatenate((*cuts, [start]))).astype(np.int64)
        tokens = tokens[(start <= tokens) & (tokens < stop)]
        num_slots = source.num_parts * (window.end_head - window.first_head)
        slot, run = (grid.ravel() for grid in np.indices((num_slots, len(tokens))))
        order = np.lexsort((run, slot, tokens[run] // size))  # by source block, slot, run
        slot, run = slot[order], run[order]
        num_heads = max(1, window.end_head - window.first_head)
        return cls(
            np.arange(piece.first_layer, piece.end_layer, dtype=np.int64),
            tokens[run],
            np.diff(tokens, append=stop)[run],
            slot // num_heads,
            slot % num_heads,
        )

    def offsets(self, layout: KVLayout, blocks: Sequence[int], first_head: int) -> _Ints:
        """Where the steps start in a pool of `layout`; first_head: of the model, the window's."""
        size = layout.block_size
        block = np.asarray(blocks, np.int64)[self.tokens // size]
        slot = self.parts * layout.num_kv_heads + self.heads + (first_head - layout.first_kv_head)
        row = slot * size + self.tokens % size
        layer = self.layers * layout.offset_bytes(1, 0)
        one_layer = block * layout.region_bytes + row * layout.row_bytes
        return (layer[:, None] + one_layer[None, :]).ravel()

    def sizes(self, layout: KVLayout) -> _Ints:
        return np.tile(self.lengths * layout.row_bytes, len(self.layers))


def _joined(sizes: _Ints, *starts: _Ints) -> tuple[list[int], ...]:
    """(*starts, sizes) with steps that are neighbours in every pool as one."""
    if not len(sizes):
        return ([],) * (len(starts) + 1)
    is_break = np.zeros(len(sizes), bool)
    is_break[0] = True
    for side in starts:
        is_break[1:] |= side[1:] != side[:-1] + sizes[:-1]
    first = np.flatnonzero(is_break)
    return (*(side[first].tolist() for side in starts), np.add.reduceat(sizes, first).tolist())
