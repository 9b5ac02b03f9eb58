"""Which worker holds which prefix: block hashes to workers, fed by block events and by guesses."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from router.guesses import Guesses
from wire.messages import BlockEvent, BlockSnapshot

_MAX_STRIDE = 64
_MAX_SETS = 1 << 14
_CROWDED = 0.75  # of a worker's bound: from here on it matters what was used last
_TRIMMED = 0.95


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """Leading blocks of a prompt by worker_id; workers without any are left out.

    held includes what was only just routed there; confirmed is what the worker itself said to be on
    its device. host: on its device or in its host's memory, where that is more than confirmed.
    """

    held: dict[str, int]
    confirmed: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Worker:
    """blocks: what it confirmed to be on its device, host: and in its host's memory alone, by hash;
    what goes first at first."""

    bit: int
    worker_id: str
    sequence_number: int | None = None  # None: events mean nothing until a snapshot comes
    blocks: dict[int, None] = field(default_factory=dict)
    host: dict[int, None] = field(default_factory=dict)
    guesses: Guesses = field(default_factory=Guesses)


class PrefixMap:
    """Every worker's prefix cache as far as it is known, bounded per worker.

    A block maps to a bit set of workers, so a match costs its matched blocks whatever the number
    of workers; guesses are looked for where a prompt's first block is guessed. Guesses (what was
    just routed) live until they expire. Blocks of a worker leave in the order in which they came,
    those of its host tier first; once it is near its bound, using one counts anew.

    A worker's blocks on the device are closed under their parents, so the edge between its tiers is
    found by bisection, and a map without host tiers pays nothing for them.
    """

    def __init__(self, max_blocks_per_worker: int) -> None:
        self._max_blocks = max_blocks_per_worker
        self._workers: dict[str, _Worker] = {}
        self._names: dict[int, str] = {}  # bit -> worker_id
        self._holders: dict[int, int] = {}  # hash -> bits of workers that hold it
        self._guessers: dict[int, dict[_Worker, None]] = {}  # by the first hash of what they guess
        self._now_s = -math.inf
        self._sets: dict[int, int] = {}  # each to itself
        self._tiered: dict[str, _Worker] = {}  # those that had blocks in a host tier

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
        for block in (*worker.blocks, *worker.host):
            self._drop(worker, block)
        self._tiered.pop(worker_id, None)
        self._forget_roots(worker, worker.guesses.roots())
        del self._names[worker.bit]

    def expect_snapshot(self, worker_id: str) -> None:
        """Events are skipped until the worker's next snapshot."""
        self._workers[worker_id].sequence_number = None

    def load_snapshot(self, worker_id: str, snapshot: BlockSnapshot) -> None:
        """Replaces all that was confirmed; guesses stay until they expire."""
        worker = self._workers[worker_id]
        stored, on_host = set(snapshot.stored), set(snapshot.host_stored)
        gone = [block for block in worker.blocks if block not in stored]
        gone += [block for block in worker.host if block not in on_host]
        for block in gone:
            self._drop(worker, block)
        self._store(worker, snapshot.stored)
        self._store_on_host(worker, snapshot.host_stored)
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
                worker.guesses.remove(block)
        for block in event.host_removed:
            if block in worker.host:
                self._drop(worker, block)
        self._store(worker, event.stored)
        self._store_on_host(worker, event.host_stored)
        return True

    def speculate(
        self, worker_ids: Iterable[str], hashes: Sequence[int], expires_at_s: float
    ) -> None:
        """Notes that these workers will soon hold these blocks, and that they are in use.

        What a worker has confirmed is guessed as well: that costs less than to look.
        """
        if not hashes:
            return
        for worker_id in worker_ids:
            worker = self._workers[worker_id]
            if len(worker.blocks) + len(worker.host) > _CROWDED * self._max_blocks:
                self._touch(worker, hashes)
            gone = worker.guesses.add(hashes, expires_at_s, self._now_s, self._max_blocks)
            if gone:
                self._forget_roots(worker, gone)
            self._guessers.setdefault(hashes[0], {})[worker] = None

    def expire(self, now_s: float) -> None:
        """The time that matches are for: guesses that have ended by then do not count."""
        self._now_s = now_s

    def match(self, hashes: Sequence[int]) -> PrefixMatch:
        """How many leading blocks of a prompt each worker holds; [num_blocks] chained hashes."""
        confirmed = self._confirmed(hashes)
        host = self._split(confirmed, hashes) if self._tiered else {}
        held = confirmed.copy()
        for worker in self._guessers.get(hashes[0], ()) if hashes else ():
            sure = confirmed.get(worker.worker_id, 0)
            depth = worker.guesses.reach(hashes, sure, self._now_s, worker.blocks)
            if depth > sure:
                held[worker.worker_id] = depth
        return PrefixMatch(held, confirmed, host)

    def has_worker(self, worker_id: str) -> bool:
        return worker_id in self._workers

    def num_blocks(self, worker_id: str) -> int:
        worker = self._workers.get(worker_id)
        return 0 if worker is None else len(worker.blocks) + len(worker.host)

    def check_integrity(self) -> None:
        """Raises AssertionError when both directions of the map disagree or a bound is broken."""
        holders: dict[int, int] = {}
        for worker_id, worker in self._workers.items():
            assert self._names[worker.bit] == worker_id, f"{worker_id} has a foreign bit"
            num_blocks = self.num_blocks(worker_id)
            assert num_blocks <= self._max_blocks, f"{worker_id} holds too many blocks"
            assert not worker.blocks.keys() & worker.host.keys(), f"{worker_id} has a block twice"
            assert not worker.host or worker_id in self._tiered, f"{worker_id} has a hidden tier"
            for root in worker.guesses.roots():
                assert worker in self._guessers[root], f"{worker_id} guesses without being found"
            for block in (*worker.blocks, *worker.host):
                holders[block] = holders.get(block, 0) | worker.bit
        assert len(self._names) == len(self._workers), "a bit belongs to nobody"
        assert holders == self._holders, "the holders of blocks disagree with the workers' blocks"

    def _forget_roots(self, worker: _Worker, roots: Iterable[int]) -> None:
        for root in roots:
            guessers = self._guessers[root]
            guessers.pop(worker, None)
            if not guessers:
                del self._guessers[root]

    def _split(self, depths: dict[str, int], hashes: Sequence[int]) -> dict[str, int]:
        """Leaves to `depths` what is on the device; gives those that the host tier adds to."""
        host: dict[str, int] = {}
        for worker_id in [name for name in depths if name in self._tiered]:
            blocks, depth = self._tiered[worker_id].blocks, depths[worker_id]
            if hashes[depth - 1] in blocks:
                continue
            host[worker_id] = depth
            low, high = 0, depth - 1
            while low < high:
                middle = (low + high) // 2
                if hashes[middle] in blocks:
                    low = middle + 1
                else:
                    high = middle
            if low:
                depths[worker_id] = low
            else:
                del depths[worker_id]
        return host

    def _confirmed(self, hashes: Sequence[int]) -> dict[str, int]:
        """Leading blocks in either tier by worker_id; the cost is in the blocks, whatever the
        workers."""
        found: dict[str, int] = {}
        alive, last = -1, -1
        end, stride = 0, 1
        while end < len(hashes):
            # The dictionary is asked in bulk, and most neighbours have the very same holders. Its
            # entries lie apart in memory: few are asked beyond those that somebody holds.
            start, end = end, end + stride
            stride = min(4 * stride, _MAX_STRIDE)
            part = list(map(self._holders.get, hashes[start:end]))
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

    def _store_on_host(self, worker: _Worker, stored: Sequence[int]) -> None:
        if stored:
            self._tiered[worker.worker_id] = worker
            self._enter(worker, stored, worker.host)

    def _store(self, worker: _Worker, stored: Sequence[int]) -> None:
        if worker.host:
            for block in stored:
                worker.host.pop(block, None)
        self._enter(worker, stored, worker.blocks)

    def _enter(self, worker: _Worker, stored: Sequence[int], blocks: dict[int, None]) -> None:
        bit, holders = worker.bit, self._holders
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
        num_blocks = len(worker.blocks) + len(worker.host)
        if num_blocks > self._max_blocks:
            kept = min(self._max_blocks, int(_TRIMMED * self._max_blocks) + 1)
            in_order = chain(worker.host, worker.blocks)
            for block in list(islice(in_order, num_blocks - kept)):
                self._drop(worker, block)

    def _touch(self, worker: _Worker, hashes: Sequence[int]) -> None:
        for blocks in (worker.blocks, worker.host):
            for block in reversed(hashes):
                if block in blocks:
                    blocks[block] = blocks.pop(block)

    def _drop(self, worker: _Worker, block: int) -> None:
        del (worker.blocks if block in worker.blocks else worker.host)[block]
        worker.guesses.remove(block)
        rest = self._holders[block] & ~worker.bit
        if rest:
            self._holders[block] = rest
        else:
            del self._holders[block]
