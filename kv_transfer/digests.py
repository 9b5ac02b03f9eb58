"""Digests of what moves: source and reader hash the same sampled regions and compare.

The source hashes a region when it becomes readable, while its lease holds; the reader hashes its
own copy when it has arrived. Both sample the same regions, so only the values cross.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import xxhash

from kv_transfer.mapping import Extent
from kv_transfer.memory import Readable
from kv_transfer.plan import Cursor, Piece
from wire.kv import KVLayout

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

    def rows(self, piece: Piece) -> Iterator[tuple[int, range]]:
        """(layer, indices) of the piece's regions that are sampled."""
        if not self.every:
            return
        for layer in range(piece.first_layer, piece.end_layer):
            before = layer * self.num_blocks + piece.first_index
            start = piece.first_index + (self.phase - before) % self.every
            yield layer, range(start, piece.end_index, self.every)

    def count(self, piece: Piece) -> int:
        return sum(len(indices) for _, indices in self.rows(piece))

    def names(self, layer: int, indices: range) -> range:
        """The regions' numbers, counted layer by layer."""
        base = layer * self.num_blocks
        return range(base + indices.start, base + indices.stop, indices.step)


@dataclass(frozen=True, slots=True)
class RegionHasher:
    """One side's digests (xxh3, 64 bits) of one pull.

    blocks: of the prompt, in this pool. mapped: where not whole regions move, what is read or
    written of (layer, index), in the order in which it moves.
    """

    sample: Sample
    buffer: Readable
    layout: KVLayout
    blocks: Sequence[int]
    mapped: Callable[[int, int], Sequence[Extent]] | None = None

    def digests(self, piece: Piece) -> dict[int, int]:
        """Of the sampled regions of `piece`, by number."""
        found: dict[int, int] = {}
        for layer, indices in self.sample.rows(piece):
            values = (
                self._whole(layer, indices)
                if self.mapped is None
                else [self._parts(self.mapped(layer, index)) for index in indices]
            )
            found.update(zip(self.sample.names(layer, indices), values, strict=True))
        return found

    def _whole(self, layer: int, indices: range) -> list[int]:
        digest, buffer, blocks = xxhash.xxh3_64_intdigest, self.buffer, self.blocks
        base, size = self.layout.offset_bytes(layer, 0), self.layout.region_bytes
        starts = [base + blocks[index] * size for index in indices]
        return [digest(buffer[start : start + size]) for start in starts]

    def _parts(self, extents: Sequence[Extent]) -> int:
        hasher = xxhash.xxh3_64()
        for offset, size in extents:
            hasher.update(self.buffer[offset : offset + size])
        return hasher.intdigest()


class DigestWalk:
    """The source's side: each digest is taken once, as its region becomes readable."""

    def __init__(self, hasher: RegionHasher, piece: Piece) -> None:
        """piece: all that the pull reads."""
        self._hasher = hasher
        self._cursor = Cursor(piece)

    @property
    def is_done(self) -> bool:
        return not self._hasher.sample.every or not self._cursor.num_left

    def take(self, ready_blocks: Sequence[int], max_regions: int) -> dict[int, int]:
        """Digests by region, of about `max_regions` that are readable and new; empty when there
        are none left. ready_blocks: as in plan.Cursor."""
        digests: dict[int, int] = {}
        every = self._hasher.sample.every
        while every and len(digests) < max_regions:
            piece = self._cursor.take(ready_blocks, every * max_regions)
            if piece is None:
                break
            digests.update(self._hasher.digests(piece))
        return digests


class Verification:
    """The reader's side: its own digests of what has arrived, and the source's."""

    def __init__(self, hasher: RegionHasher, piece: Piece) -> None:
        """piece: all that the pull reads."""
        self._hasher = hasher
        self._num_expected = hasher.sample.count(piece)
        self._arrived: list[Piece] = []
        self.num_waiting = 0  # sampled regions that nobody was told to hash
        self._mine: dict[int, int] = {}
        self._theirs: dict[int, int] = {}

    @property
    def is_done(self) -> bool:
        """Each side's digest of every sampled region is here."""
        return min(len(self._mine), len(self._theirs)) >= self._num_expected

    @property
    def num_compared(self) -> int:
        return len(self._mine)

    def arrived(self, piece: Piece) -> None:
        if num_sampled := self._hasher.sample.count(piece):
            self._arrived.append(piece)
            self.num_waiting += num_sampled

    def told(self, regions: Sequence[int], values: Sequence[int]) -> None:
        """By the source."""
        self._theirs.update(zip(regions, values, strict=False))

    def take(self) -> Sequence[Piece]:
        """What has arrived and nobody was told to hash; to be given to `hash`, on any thread."""
        taken, self._arrived, self.num_waiting = self._arrived, [], 0
        return taken

    def hash(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._mine.update(self._hasher.digests(piece))

    def bad_region(self) -> int | None:
        """Of what is done: a region that differs, None where all are equal."""
        if self._mine == self._theirs:
            return None
        differing = {name for name, _ in self._mine.items() ^ self._theirs.items()}
        return min(differing)
