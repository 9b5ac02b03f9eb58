"""Which worker holds which prefix: block hashes to workers, fed by block events and by guesses."""

import math
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice

from wire.messages import BlockEvent, BlockSnapshot

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


_Guess = tuple[float, Sequence[int]]  # when it ends, and the prompt's hashes


@dataclass(slots=True, eq=False)
class _Worker:
    """blocks: what it confirmed, by hash; what goes first at first.

    guesses, stale: what was routed there lately, by every hash of it, in two generations; the elder
    one is let go as a whole when its last guess has ended. roots, stale_roots: the first hashes of
    their prompts. Until holes_end_s some guess may have lost a block in its middle.
    """

    bit: int
    worker_id: str
    sequence_number: int | None = None  # None: events mean nothing until a snapshot comes
    blocks: dict[int, None] = field(default_factory=dict)
    guesses: dict[int, _Guess] = field(default_factory=dict)
    stale: dict[int, _Guess] = field(default_factory=dict)
    roots: set[int] = field(default_factory=set)
    stale_roots: set[int] = field(default_factory=set)
    guesses_end_s: float = -math.inf
    stale_ends_s: float = -math.inf
    holes_end_s: float = -math.inf

    def guess(
        self, hashes: Sequence[int], entries: dict[int, _Guess], now_s: float, limit: int
    ) -> set[int]:
        """Adds a prompt and its entries; gives the roots of prompts that it lets go."""
        gone: set[int] = set()
        if self.stale_ends_s <= now_s or len(self.guesses) > limit:
            gone = self.stale_roots - self.roots
            self.stale, self.stale_ends_s = self.guesses, self.guesses_end_s
            self.guesses = {}
            self.stale_roots, self.roots = self.roots, set()
        self.guesses.update(entries)
        self.roots.add(hashes[0])
        gone.discard(hashes[0])
        self.guesses_end_s = max(self.guesses_end_s, entries[hashes[0]][0])
        return gone

    def unguess(self, block: int) -> None:
        in_either = self.guesses.pop(block, None), self.stale.pop(block, None)
        if in_either != (None, None):
            self.holes_end_s = max(self.guesses_end_s, self.stale_ends_s)

    def reach(self, hashes: Sequence[int], depth: int, now_s: float) -> int:
        """How far the prompt is held from `depth` on, where it is not confirmed."""
        start, has_holes = depth, now_s < self.holes_end_s
        while depth < len(hashes):
            block = hashes[depth]
            guess = self.guesses.get(block) or self.stale.get(block)
            if guess is not None and guess[0] > now_s:
                depth = depth + 1 if has_holes else _common_end(hashes, guess[1], depth)
            elif depth > start and block in self.blocks:
                depth += 1
            else:
                break
        return depth


def _common_end(one: Sequence[int], other: Sequence[int], depth: int) -> int:
    """Where two prompts part that are equal at `depth`: a chained hash stands for all before it."""
    end = min(len(one), len(other))
    if one[end - 1] == other[end - 1]:
        return max(end, depth + 1)
    while end - depth > 1:
        middle = (depth + end) // 2
        if one[middle] == other[middle]:
            depth = middle
        else:
            end = middle
    return end


class PrefixMap:
    """Every worker's prefix cache as far as it is known, bounded per worker.

    A block maps to a bit set of workers, so a match costs its matched blocks whatever the number
    of workers; guesses are looked for where a prompt's first block is guessed or held. Guesses
    (what was just routed) live until they are confirmed or expire. Blocks of a worker leave in the
    order in which they came; once it is near its bound, using one counts anew.
    """

    def __init__(self, max_blocks_per_worker: int) -> None:
        self._max_blocks = max_blocks_per_worker
        self._workers: dict[str, _Worker] = {}
        self._names: dict[int, str] = {}  # bit -> worker_id
        self._holders: dict[int, int] = {}  # hash -> bits of workers that hold it
        self._guessers: dict[int, set[_Worker]] = {}  # by the first hash of what they guess
        self._now_s = -math.inf
        self._sets: dict[int, int] = {}  # each to itself

    def add_worker(self, worker_id: str) -> None:
        bit = 1
        while bit in self._names:
            bit <<= 1
        self._names[bit] = worker_id
        self._workers[worker_id] = _Worker(bit, worker_id)

    def remove_worker(self, worker_id: str) -> None:
        worker = self._workers.pop(worker_id, None)
        if worker is None:
            return
        for block in list(worker.blocks):
            self._drop(worker, block)
        self._forget_roots(worker, worker.roots | worker.stale_roots)
        del self._names[worker.bit]

    def expect_snapshot(self, worker_id: str) -> None:
        """Events are skipped until the worker's next snapshot."""
        self._workers[worker_id].sequence_number = None

    def load_snapshot(self, worker_id: str, snapshot: BlockSnapshot) -> None:
        """Replaces all that was confirmed; guesses stay until they expire."""
        worker = self._workers[worker_id]
        stored = set(snapshot.stored)
        for block in list(worker.blocks):
            if block not in stored:
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
            else:
                worker.unguess(block)
        self._store(worker, event.stored)
        return True

    def speculate(
        self, worker_ids: Iterable[str], hashes: Sequence[int], expires_at_s: float
    ) -> None:
        """Notes that these workers will soon hold these blocks, and that they are in use.

        What a worker has confirmed is guessed as well: that costs less than to look.
        """
        guessed = dict.fromkeys(hashes, (expires_at_s, hashes))
        for worker_id in worker_ids:
            worker = self._workers[worker_id]
            if len(worker.blocks) > _CROWDED * self._max_blocks:
                self._touch(worker, hashes)
            if guessed:
                gone = worker.guess(hashes, guessed, self._now_s, self._max_blocks)
                self._forget_roots(worker, gone)
                self._guessers.setdefault(hashes[0], set()).add(worker)

    def expire(self, now_s: float) -> None:
        """The time that matches are for: guesses that have ended by then do not count."""
        self._now_s = now_s

    def match(self, hashes: Sequence[int]) -> PrefixMatch:
        """How many leading blocks of a prompt each worker holds; [num_blocks] chained hashes."""
        confirmed = self._confirmed(hashes)
        held = confirmed.copy()
        if not hashes:
            return PrefixMatch(held, confirmed)
        guessers: Set[_Worker] = self._guessers.get(hashes[0], frozenset())
        for worker in guessers:
            self._reach(worker, hashes, confirmed, held)
        for worker_id in confirmed:
            worker = self._workers[worker_id]
            if (worker.guesses or worker.stale) and worker not in guessers:
                self._reach(worker, hashes, confirmed, held)
        return PrefixMatch(held, confirmed)

    def has_worker(self, worker_id: str) -> bool:
        return worker_id in self._workers

    def num_blocks(self, worker_id: str) -> int:
        worker = self._workers.get(worker_id)
        return 0 if worker is None else len(worker.blocks)

    def check_integrity(self) -> None:
        """Raises AssertionError when both directions of the map disagree or a bound is broken."""
        holders: dict[int, int] = {}
        for worker_id, worker in self._workers.items():
            assert self._names[worker.bit] == worker_id, f"{worker_id} has a foreign bit"
            assert len(worker.blocks) <= self._max_blocks, f"{worker_id} holds too many blocks"
            for root in worker.roots | worker.stale_roots:
                assert worker in self._guessers[root], f"{worker_id} guesses without being found"
            for block in worker.blocks:
                holders[block] = holders.get(block, 0) | worker.bit
        assert len(self._names) == len(self._workers), "a bit belongs to nobody"
        assert holders == self._holders, "the holders of blocks disagree with the workers' blocks"

    def _has_ended(self, worker: _Worker) -> bool:
        return max(worker.guesses_end_s, worker.stale_ends_s) <= self._now_s

    def _reach(
        self,
        worker: _Worker,
        hashes: Sequence[int],
        confirmed: dict[str, int],
        held: dict[str, int],
    ) -> None:
        """Notes how far a worker's guesses go, if that is further than what it has confirmed."""
        if self._has_ended(worker):
            return
        sure = confirmed.get(worker.worker_id, 0)
        depth = worker.reach(hashes, sure, self._now_s)
        if depth > sure:
            held[worker.worker_id] = depth

    def _forget_roots(self, worker: _Worker, roots: Iterable[int]) -> None:
        for root in roots:
            guessers = self._guessers[root]
            guessers.discard(worker)
            if not guessers:
                del self._guessers[root]

    def _confirmed(self, hashes: Sequence[int]) -> dict[str, int]:
        """Leading blocks by worker_id; the cost is in the blocks, whatever the workers."""
        found: dict[str, int] = {}
        alive, last = -1, -1
        for start in range(0, len(hashes), _STRIDE):
            # The dictionary is asked in bulk, and most neighbours have the very same holders.
            part = list(map(self._holders.get, hashes[start : start + _STRIDE]))
            if part.count(last) == len(part):
                continue
            for depth, here in enumerate(part, start):
                if here is last:
                    continue
                last = here or 0
                if alive & ~last:
                    self._note(found, alive & ~last, depth)
                    alive &= last
                    if not alive:
                        return found
        self._note(found, alive, len(hashes))
        return found

    def _note(self, depths: dict[str, int], bits: int, depth: int) -> None:
        if not depth:
            return
        while bits:
            bit = bits & -bits
            depths[self._names[bit]] = depth
            bits ^= bit

    def _store(self, worker: _Worker, stored: Sequence[int]) -> None:
        bit, blocks, holders = worker.bit, worker.blocks, self._holders
        for block in reversed(stored):  # leaves are older than their roots
            blocks.pop(block, None)
            blocks[block] = None
            before = holders.get(block)
            holders[block] = bit if before is None else self._joined(before, bit)
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

    def _touch(self, worker: _Worker, hashes: Sequence[int]) -> None:
        blocks = worker.blocks
        for block in reversed(hashes):
            if block in blocks:
                blocks[block] = blocks.pop(block)

    def _drop(self, worker: _Worker, block: int) -> None:
        del worker.blocks[block]
        worker.unguess(block)
        rest = self._holders[block] & ~worker.bit
        if rest:
            self._holders[block] = rest
        else:
            del self._holders[block]
