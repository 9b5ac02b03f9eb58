"""Which worker holds which prefix: block hashes to workers, fed by block events and by guesses."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from wire.messages import BlockEvent, BlockSnapshot

_CONFIRMED = math.inf
_STRIDE = 64
_MAX_SETS = 1 << 14
_CROWDED = 0.75  # of a worker's bound: from here on it matters what was used last
_TRIMMED = 0.95


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """Leading blocks of a prompt by worker_id; workers without any are left out.

    held includes what was only just routed there; confirmed is what the worker itself said.
    """

    held: dict[str, int]
    confirmed: dict[str, int]


@dataclass(slots=True)
class _Worker:
    """blocks: hash -> when the guess ends (infinity: confirmed), what goes first at first."""

    bit: int
    sequence_number: int | None = None  # None: events mean nothing until a snapshot comes
    blocks: dict[int, float] = field(default_factory=dict)


class PrefixMap:
    """Every worker's prefix cache as far as it is known, bounded per worker.

    A block maps to a bit set of workers, so a match costs its matched blocks whatever the number
    of workers. Guesses (what was just routed) live until they are confirmed or expire. Blocks of a
    worker leave in the order in which they came; once it is near its bound, using one counts anew.
    """

    def __init__(self, max_blocks_per_worker: int) -> None:
        self._max_blocks = max_blocks_per_worker
        self._workers: dict[str, _Worker] = {}
        self._names: dict[int, str] = {}  # bit -> worker_id
        self._holders: dict[int, int] = {}  # hash -> bits of workers that hold or will hold it
        self._guesses: dict[int, int] = {}  # hash -> bits of workers where it is a guess
        self._sets: dict[int, int] = {}  # each to itself
        self._expiries: deque[tuple[float, str, tuple[int, ...]]] = deque()

    def add_worker(self, worker_id: str) -> None:
        bit = 1
        while bit in self._names:
            bit <<= 1
        self._names[bit] = worker_id
        self._workers[worker_id] = _Worker(bit)

    def remove_worker(self, worker_id: str) -> None:
        worker = self._workers.pop(worker_id, None)
        if worker is None:
            return
        for block in list(worker.blocks):
            self._drop(worker, block)
        del self._names[worker.bit]

    def expect_snapshot(self, worker_id: str) -> None:
        """Events are skipped until the worker's next snapshot."""
        self._workers[worker_id].sequence_number = None

    def load_snapshot(self, worker_id: str, snapshot: BlockSnapshot) -> None:
        """Replaces all that was confirmed; guesses stay until they expire."""
        worker = self._workers[worker_id]
        stored = set(snapshot.stored)
        for block, expiry in list(worker.blocks.items()):
            if expiry == _CONFIRMED and block not in stored:
                self._drop(worker, block)
        self._store(worker, snapshot.stored)
        worker.sequence_number = snapshot.sequence_number

    def apply(self, worker_id: str, event: BlockEvent) -> bool:
        """Applies the next event. False: events are missing, ask the worker for a snapshot.

        Old events, and all events until the expected snapshot, change nothing and give True.
        """
        worker = self._workers[worker_id]
        if worker.sequence_number is None or event.sequence_number <= worker.sequence_number:
            return True
        if event.sequence_number != worker.sequence_number + 1:
            worker.sequence_number = None
            return False
        worker.sequence_number = event.sequence_number
        for block in event.removed:
            if block in worker.blocks:
                self._drop(worker, block)
        self._store(worker, event.stored)
        return True

    def speculate(self, worker_id: str, hashes: Sequence[int], expires_at_s: float) -> None:
        """Notes that the worker will soon hold these blocks, and that they are in use."""
        worker = self._workers[worker_id]
        blocks, bit = worker.blocks, worker.bit
        holders, guesses = self._holders, self._guesses
        if len(blocks) > _CROWDED * self._max_blocks:
            for block in reversed(hashes):
                if block in blocks:
                    blocks[block] = blocks.pop(block)
        known = blocks.get
        guessed = [block for block in reversed(hashes) if known(block) != _CONFIRMED]
        for block in guessed:
            blocks[block] = expires_at_s
            before = holders.get(block)
            holders[block] = bit if before is None else self._joined(before, bit)
            before = guesses.get(block)
            guesses[block] = bit if before is None else self._joined(before, bit)
        if guessed:
            self._expiries.append((expires_at_s, worker_id, tuple(guessed)))
            self._trim(worker)

    def expire(self, now_s: float) -> None:
        """Forgets the guesses that nobody confirmed in time."""
        while self._expiries and self._expiries[0][0] <= now_s:
            _, worker_id, guessed = self._expiries.popleft()
            worker = self._workers.get(worker_id)
            if worker is None:
                continue
            for block in guessed:
                if worker.blocks.get(block, _CONFIRMED) <= now_s:
                    self._drop(worker, block)

    def match(self, hashes: Sequence[int]) -> PrefixMatch:
        """How many leading blocks of a prompt each worker holds; [num_blocks] chained hashes."""
        held: dict[str, int] = {}
        confirmed: dict[str, int] = {}
        alive = sure = -1
        for start in range(0, len(hashes), _STRIDE):
            part = hashes[start : start + _STRIDE]
            # Dictionaries are asked in bulk, and most neighbours have the same holders.
            holders = list(map(self._holders.get, part))
            guesses = list(map(self._guesses.get, part))
            runs = _guessed_runs(holders, guesses) if any(guesses) else _runs(holders)
            for offset, here, there in runs:
                if sure & ~there:
                    self._note(confirmed, sure & ~there, start + offset)
                    sure &= there
                if alive & ~here:
                    self._note(held, alive & ~here, start + offset)
                    alive &= here
                if not alive:
                    return PrefixMatch(held, confirmed)
        self._note(confirmed, sure, len(hashes))
        self._note(held, alive, len(hashes))
        return PrefixMatch(held, confirmed)

    def num_blocks(self, worker_id: str) -> int:
        worker = self._workers.get(worker_id)
        return 0 if worker is None else len(worker.blocks)

    def check_integrity(self) -> None:
        """Raises AssertionError when both directions of the map disagree or a bound is broken."""
        holders: dict[int, int] = {}
        guesses: dict[int, int] = {}
        for worker_id, worker in self._workers.items():
            assert self._names[worker.bit] == worker_id, f"{worker_id} has a foreign bit"
            assert len(worker.blocks) <= self._max_blocks, f"{worker_id} holds too many blocks"
            for block, expiry in worker.blocks.items():
                holders[block] = holders.get(block, 0) | worker.bit
                if expiry != _CONFIRMED:
                    guesses[block] = guesses.get(block, 0) | worker.bit
        assert len(self._names) == len(self._workers), "a bit belongs to nobody"
        assert holders == self._holders, "the holders of blocks disagree with the workers' blocks"
        assert guesses == self._guesses, "the guesses disagree with the workers' blocks"

    def _note(self, depths: dict[str, int], bits: int, depth: int) -> None:
        if not depth:
            return
        while bits:
            bit = bits & -bits
            depths[self._names[bit]] = depth
            bits ^= bit

    def _store(self, worker: _Worker, stored: Sequence[int]) -> None:
        bit, blocks, holders, guesses = worker.bit, worker.blocks, self._holders, self._guesses
        for block in reversed(stored):  # leaves are older than their roots
            blocks.pop(block, None)
            blocks[block] = _CONFIRMED
            before = holders.get(block)
            holders[block] = bit if before is None else self._joined(before, bit)
            if block in guesses:
                _clear(guesses, block, bit)
        self._trim(worker)

    def _joined(self, bits: int, bit: int) -> int:
        """Their union, the same object for the same set: sets are many, different ones are few."""
        joined = bits | bit
        if len(self._sets) > _MAX_SETS:
            self._sets.clear()
        return self._sets.setdefault(joined, joined)

    def _trim(self, worker: _Worker) -> None:
        """Drops many at a time, since a dict finds its first entry ever more slowly."""
        if len(worker.blocks) > self._max_blocks:
            kept = min(self._max_blocks, int(_TRIMMED * self._max_blocks) + 1)
            for block in list(islice(worker.blocks, len(worker.blocks) - kept)):
                self._drop(worker, block)

    def _drop(self, worker: _Worker, block: int) -> None:
        del worker.blocks[block]
        _clear(self._holders, block, worker.bit)
        if block in self._guesses:
            _clear(self._guesses, block, worker.bit)


def _clear(bits: dict[int, int], block: int, bit: int) -> None:
    rest = bits[block] & ~bit
    if rest:
        bits[block] = rest
    else:
        del bits[block]


def _runs(holders: list[int | None]) -> Iterable[tuple[int, int, int]]:
    """(offset, holders, those that are sure) wherever the holders change; all are sure."""
    last: int | None = -1
    for offset, here in enumerate(holders):
        if here is not last:
            last = here
            yield offset, here or 0, here or 0


def _guessed_runs(
    holders: list[int | None], guesses: list[int | None]
) -> Iterable[tuple[int, int, int]]:
    last: int | None = -1
    last_guess: int | None = -1
    for offset, (here, guess) in enumerate(zip(holders, guesses, strict=True)):
        if here is not last or guess is not last_guess:
            last, last_guess = here, guess
            yield offset, here or 0, (here or 0) & ~(guess or 0)
