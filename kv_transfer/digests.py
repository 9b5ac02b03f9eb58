"""Digests of what moves: source and reader hash the same sampled regions and compare.

The source hashes a region when it becomes readable, while its lease holds; the reader hashes its
own copy once it has arrived. Both walk the same regions, so only the values cross.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import xxhash

from kv_transfer.mapping import Extent
from kv_transfer.plan import Cursor, Piece

MAX_DIGESTS = 4096  # of one frame


@dataclass(frozen=True, slots=True)
class Sample:
    """Of the regions of a prompt of `num_blocks`, counted layer by layer, every `every`-th from
    `phase` on. every: 0 for none, 1 for all."""

    num_blocks: int
    every: int
    phase: int

    @classmethod
    def share(cls, num_blocks: int, share: float, ticket: int) -> "Sample":
        """About `share` of the regions, in [0, 1]; successive tickets take different ones."""
        every = round(1 / share) if share > 0 else 0
        return cls(num_blocks, every, ticket % every if every else 0)

    def regions(self, piece: Piece) -> Iterator[tuple[int, int]]:
        """(layer, index) of the piece's regions that are sampled."""
        if not self.every:
            return
        for layer in range(piece.first_layer, piece.end_layer):
            base = layer * self.num_blocks
            offset = (self.phase - base - piece.first_index) % self.every
            for index in range(piece.first_index + offset, piece.end_index, self.every):
                yield layer, index

    def name(self, layer: int, index: int) -> int:
        return layer * self.num_blocks + index


class DigestWalk:
    """One side's digests of one pull, each taken once, as its region becomes readable."""

    def __init__(
        self,
        sample: Sample,
        piece: Piece,
        buffer: memoryview,
        extents: Callable[[int, int], Sequence[Extent]],
    ) -> None:
        """piece: all that the pull reads. extents: of the region (layer, index) in `buffer`."""
        self._sample = sample
        self._cursor = Cursor(piece)
        self._buffer = buffer
        self._extents = extents

    @property
    def is_done(self) -> bool:
        return not self._sample.every or not self._cursor.num_left

    def take(self, ready_blocks: Sequence[int], max_regions: int) -> dict[int, int]:
        """Digests by region, of about `max_regions` that are readable and new; empty when there
        are none left. ready_blocks: as in plan.Cursor."""
        digests: dict[int, int] = {}
        sample = self._sample
        while sample.every and len(digests) < max_regions:
            piece = self._cursor.take(ready_blocks, sample.every * max_regions)
            if piece is None:
                break
            for layer, index in sample.regions(piece):
                digests[sample.name(layer, index)] = self._digest(layer, index)
        return digests

    def _digest(self, layer: int, index: int) -> int:
        extents = self._extents(layer, index)
        if len(extents) == 1:
            offset, size = extents[0]
            return xxhash.xxh3_64_intdigest(self._buffer[offset : offset + size])
        hasher = xxhash.xxh3_64()
        for offset, size in extents:
            hasher.update(self._buffer[offset : offset + size])
        return hasher.intdigest()


class Comparison:
    """The two sides' digests of one pull: equal, or the first region that differs."""

    def __init__(self) -> None:
        self._waiting: dict[int, int] = {}
        self.num_compared = 0
        self.bad_region: int | None = None

    @property
    def is_even(self) -> bool:
        """Every digest has met its twin."""
        return not self._waiting

    def add(self, digests: dict[int, int]) -> None:
        """Digests of either side; the second of a region is compared with the first."""
        for region, value in digests.items():
            if region not in self._waiting:
                self._waiting[region] = value
            elif self._waiting.pop(region) == value:
                self.num_compared += 1
            elif self.bad_region is None:
                self.bad_region = region
