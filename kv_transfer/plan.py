"""Which bytes move: watermarks, pieces of a read, and copies with neighbours joined. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wire.kv import KVLayout


@dataclass(frozen=True, slots=True)
class Watermark:
    """What prefill has computed: `full_tokens` in every layer, and in the first `partial_layers`
    layers already `partial_tokens`."""

    full_tokens: int = 0
    partial_tokens: int = 0
    partial_layers: int = 0

    def advanced(self, num_tokens: int, num_layers: int, total_layers: int) -> "Watermark":
        """Layers < num_layers are done for tokens < num_tokens; never goes back."""
        if num_layers >= total_layers:
            return Watermark(max(self.full_tokens, num_tokens))
        if (num_tokens, num_layers) <= (self.partial_tokens, self.partial_layers):
            return self
        return Watermark(self.full_tokens, num_tokens, num_layers)

    def ready_tokens(self, layer: int) -> int:
        if layer < self.partial_layers:
            return max(self.full_tokens, self.partial_tokens)
        return self.full_tokens

    def ready_blocks(self, layer: int, num_tokens: int, block_size: int) -> int:
        """Readable blocks of a prompt of `num_tokens`; the last block may be partial."""
        ready = self.ready_tokens(layer)
        return -(-num_tokens // block_size) if ready >= num_tokens else ready // block_size


def ready_blocks(mark: Watermark, layout: KVLayout, num_tokens: int) -> list[int]:
    """Per layer, blocks of a prompt of `num_tokens` that can be read."""
    num_layers, size = layout.num_layers, layout.block_size
    if mark.full_tokens >= num_tokens:
        return [-(-num_tokens // size)] * num_layers
    return [mark.ready_blocks(layer, num_tokens, size) for layer in range(num_layers)]


@dataclass(frozen=True, slots=True)
class Piece:
    """The regions layers x indices of a published block list, layer by layer."""

    first_layer: int
    end_layer: int
    first_index: int
    end_index: int

    @property
    def num_regions(self) -> int:
        return (self.end_layer - self.first_layer) * (self.end_index - self.first_index)

    def fits(self, num_layers: int, num_blocks: int) -> bool:
        """It names at least one region and none outside of num_layers x num_blocks."""
        return (
            0 <= self.first_layer < self.end_layer <= num_layers
            and 0 <= self.first_index < self.end_index <= num_blocks
        )

    def joined(self, after: "Piece") -> "Piece | None":
        """The regions of both; None where `after` goes on neither where the layers of this piece
        end nor where its indices do."""
        both = Piece(self.first_layer, after.end_layer, self.first_index, after.end_index)
        is_next = (self.end_layer, self.first_index) == (after.first_layer, after.first_index)
        if is_next and self.end_index == after.end_index:
            return both
        is_next = (self.end_index, self.first_layer) == (after.first_index, after.first_layer)
        return both if is_next and self.end_layer == after.end_layer else None


class Cursor:
    """How far a piece has been taken: per layer the next index. Each region is taken once."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._next = [piece.first_index] * (piece.end_layer - piece.first_layer)
        self._num_regions = piece.num_regions
        self.num_left = max(0, self._num_regions)

    def take(self, ready_blocks: Sequence[int], max_regions: int) -> Piece | None:
        """The next readable piece of at most `max_regions` regions; None when there is none.

        ready_blocks: per layer of the cache, blocks that can be read.
        """
        base, end = self._piece.first_layer, self._piece.end_index
        is_fresh = 0 < self._num_regions == self.num_left <= max_regions
        if is_fresh and min(ready_blocks[base : self._piece.end_layer]) >= end:
            return self._all()
        for layer in range(base, self._piece.end_layer):
            start, stop = self._next[layer - base], min(ready_blocks[layer], end)
            if start < stop:
                break
        else:
            return None
        width = min(stop - start, max_regions)
        piece = Piece(
            layer,
            self._same_layers(layer, ready_blocks, max_regions // width),
            start,
            start + width,
        )
        self._advance(piece)
        return piece

    def accept(self, piece: Piece) -> bool:
        """Takes exactly `piece`; False if that is not what comes next."""
        if 0 < self._num_regions == self.num_left and piece == self._piece:
            self._all()
            return True
        base = self._piece.first_layer
        if not (base <= piece.first_layer < piece.end_layer <= self._piece.end_layer):
            return False
        if not (piece.first_index < piece.end_index <= self._piece.end_index):
            return False
        span = self._next[piece.first_layer - base : piece.end_layer - base]
        if any(index != piece.first_index for index in span):
            return False
        self._advance(piece)
        return True

    def _same_layers(self, layer: int, ready_blocks: Sequence[int], max_layers: int) -> int:
        """The end of the run of layers from `layer` on that can move together with it."""
        base, end = self._piece.first_layer, self._piece.end_index
        start, stop = self._next[layer - base], min(ready_blocks[layer], end)
        last = layer + 1
        while (
            last < self._piece.end_layer
            and last - layer < max_layers
            and self._next[last - base] == start
            and min(ready_blocks[last], end) == stop
        ):
            last += 1
        return last

    def _all(self) -> Piece:
        """Nothing is taken, and all is."""
        self._next = [self._piece.end_index] * len(self._next)
        self.num_left = 0
        return self._piece

    def _advance(self, piece: Piece) -> None:
        base = self._piece.first_layer
        for layer in range(piece.first_layer, piece.end_layer):
            self._next[layer - base] = piece.end_index
        self.num_left -= piece.num_regions


Blocks = Sequence[int] | npt.NDArray[np.int64]

CopyTable = npt.NDArray[np.int64]
"""[num_copies, 3]: offset in the source's pool, offset in the target's pool, bytes."""


def plan_copies(
    piece: Piece, source: KVLayout, source_blocks: Blocks, target: KVLayout, target_blocks: Blocks
) -> CopyTable:
    """The copies of `piece`: runs that are neighbours on both sides, within a layer, are one."""
    size, first = target.region_bytes, piece.first_index
    if piece.end_index - first == 1:  # the arrays of the general case cost more than the copy
        runs = np.array(((source_blocks[first] * size, target_blocks[first] * size, size),))
    else:
        named = slice(first, piece.end_index)
        runs = _runs(np.array((source_blocks[named], target_blocks[named]), np.int64)) * size
    if piece.first_layer == 0 and piece.end_layer == 1:
        return runs
    layers = np.arange(piece.first_layer, piece.end_layer, dtype=np.int64)
    steps = np.array((source.offset_bytes(1, 0), target.offset_bytes(1, 0), 0), np.int64)
    copies: CopyTable = runs + (layers[:, None] * steps)[:, None, :]
    return copies.reshape(-1, 3)


def _runs(pairs: CopyTable) -> CopyTable:
    """[num_runs, 3]: source block, target block, how many of each follow. pairs: [2, num_blocks]"""
    is_start = np.ones(pairs.shape[1], bool)
    np.any(pairs[:, 1:] != pairs[:, :-1] + 1, axis=0, out=is_start[1:])
    starts = np.flatnonzero(is_start)
    runs = np.empty((len(starts), 3), np.int64)
    runs[:, :2] = pairs[:, starts].T
    runs[:-1, 2] = starts[1:] - starts[:-1]
    runs[-1:, 2] = pairs.shape[1] - starts[-1:]
    return runs


def extents(piece: Piece, layout: KVLayout, blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of the piece in one pool, in order, neighbours joined."""
    size = layout.region_bytes
    runs: list[tuple[int, int]] = []
    first = end = -1  # of the run that grows
    for block in blocks[piece.first_index : piece.end_index]:
        if block != end:
            if end >= 0:
                runs.append((first * size, (end - first) * size))
            first = block
        end = block + 1
    if end >= 0:
        runs.append((first * size, (end - first) * size))
    if piece.end_layer == 1:
        return iter(runs)
    layers, step = range(piece.first_layer, piece.end_layer), layout.num_blocks * size
    return iter([(layer * step + start, length) for layer in layers for start, length in runs])
