"""A modelled worker's queues, rows and memory: the engine's scheduling rules over counts."""

import heapq
from bisect import insort
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from simulate.chunk import Chunk, add_chunk
from simulate.kv_pool import KvPool
from simulate.leg import Leg
from simulate.step_log import StepLog
from simulate.stretch import Run
from wire.block_hash import BLOCK_SIZE
from wire.messages import NO_HOST, HostLoad

_ORDER = attrgetter("order")
_FOREVER = 1 << 60


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What the operator chose; the profile gives the rest."""

    max_batch_tokens: int
    max_num_seqs: int
    unit_tokens: int  # of one cached unit, a multiple of 16
    pull_s: float = 0.0  # what a KV transfer takes besides its bytes

    @property
    def max_running(self) -> int:
        return min(self.max_num_seqs, self.max_batch_tokens)


class Batch:
    """Who waits, who runs, and whose blocks are whose. No time passes here.

    waiting --admit--> prefilling --last chunk--> decoding --last token--> gone
    pulled --row--> decoding --no room--> waiting        prefilling (prefill only) --> held
    pulled in part --row--> prefilling                   shared --> held

    Generated tokens of all decoding legs are counted together: grown_tokens in grown_blocks.
    ready_s: steps begin no sooner.
    """

    def __init__(self, limits: WorkerLimits, pool: KvPool) -> None:
        self.pool = pool
        self.ready_s = 0.0
        self.steps = StepLog()
        self.waiting: list[Leg] = []
        self.pulled: list[Leg] = []
        self.prefilling: list[Leg] = []
        self.decoding: dict[int, Leg] = {}
        self.held: dict[int, Leg] = {}
        self.context_tokens = 0
        self.waiting_tokens = 0
        self.num_preemptions = 0
        self.limits = limits
        self._finishes: list[tuple[int, int, Leg]] = []  # finish step, order, leg
        self._grown_tokens = 0
        self._grown_blocks = 0
        self._num_decode_steps = 0

    @property
    def host(self) -> HostLoad:
        """The cache's second tier."""
        return NO_HOST

    @property
    def num_running(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    @property
    def is_empty(self) -> bool:
        return not (self.num_running or self.waiting or self.pulled or self.held)

    def enqueue(self, leg: Leg) -> None:
        """Queues a new leg; its cached prefix is an estimate until it is admitted."""
        leg.num_computed = self._known_units(leg) * self.limits.unit_tokens
        self.waiting_tokens += leg.num_known - leg.num_computed
        self.waiting.append(leg)

    def reserve(self, leg: Leg) -> bool:
        """Blocks for a leg whose KV is pulled; they leave room for what runs and waits first."""
        spare = self._headroom()
        if self.waiting:
            spare += self.waiting[0].num_blocks
        return self._claim(leg, spare)

    def arrived(self, leg: Leg) -> None:
        """A pull has ended: as soon as there is a row, the leg decodes, or computes the rest."""
        self.store(leg)
        self.waiting_tokens += _num_uncomputed(leg)
        insort(self.pulled, leg, key=_ORDER)

    def hold(self, leg: Leg) -> bool:
        """References what the cache has of the leg's tokens; False: nothing."""
        leg.num_stored = self._cached_units(leg)
        leg.held = list(leg.keys[: leg.num_stored])
        self.pool.claim(leg.held, 0)
        leg.num_computed = leg.num_stored * self.limits.unit_tokens
        if leg.held:
            self.held[leg.leg_id] = leg
        return bool(leg.held)

    def plan(self, now_s: float) -> list[Chunk]:
        """The prefill of the next step; all of `decoding` decode in it."""
        while self.pulled and self._has_row:
            self._run(self.pulled.pop(0), now_s)
        can_admit = self._make_room()
        budget = self.limits.max_batch_tokens - len(self.decoding)
        chunks: list[Chunk] = []
        for leg in self.prefilling:
            if budget <= 0:
                break
            budget -= self._prefill(leg, budget, chunks)
        while can_admit and budget > 0 and (admitted := self._admit(now_s)) is not None:
            budget -= self._prefill(admitted, budget, chunks)
        return chunks

    def num_free_running_steps(self) -> int:
        """Decode steps until the first leg ends or memory runs out, at least one."""
        while not self._is_current(self._finishes[0]):
            heapq.heappop(self._finishes)
        until_finish = self._finishes[0][0] - self._num_decode_steps
        room_tokens = self.pool.num_free * BLOCK_SIZE
        return max(1, min(until_finish, room_tokens // len(self.decoding)))

    def take_restored_s(self) -> float:
        """What bringing blocks back from the host has taken since the last call."""
        return 0.0

    def decoded(self, run: Run, wait_s: float) -> None:
        """Its steps have each given a token to every decoding leg, behind a wait for ready_s."""
        num_decodes, count = len(self.decoding), run.count
        if num_decodes:
            run.record(self.steps)
            self._num_decode_steps += count
            self.context_tokens += num_decodes * count
            self._grow(num_decodes * count)

    def take_finished(self) -> list[Leg]:
        """Legs that have given their last token; their blocks are free again."""
        finished = []
        while self._finishes and self._finishes[0][0] <= self._num_decode_steps:
            entry = heapq.heappop(self._finishes)
            if self._is_current(entry):
                self.free(entry[2], self.leave(entry[2]))
                finished.append(entry[2])
        if finished and self.steps.is_long:
            starts = (leg.start_step for leg in self.decoding.values())
            self.steps.forget_before(min(min(starts, default=_FOREVER), self._num_decode_steps))
        return finished

    def join(self, leg: Leg) -> None:
        leg.start_step = self._num_decode_steps
        leg.finish_step = leg.start_step + leg.num_left
        leg.running_times = self.times_so_far
        self.decoding[leg.leg_id] = leg
        self.context_tokens += leg.num_known
        heapq.heappush(self._finishes, (leg.finish_step, leg.order, leg))

    def computed(self, chunk: Chunk) -> None:
        """A prefill chunk's step has ended."""
        self.waiting_tokens -= chunk.end - chunk.start
        chunk.leg.num_computed = chunk.end
        self.store(chunk.leg)

    def store(self, leg: Leg) -> None:
        """Offers the units that are computed since the last time to the cache."""
        num_full = min(leg.num_computed // self.limits.unit_tokens, len(leg.keys))
        for index in range(leg.num_stored, num_full):
            parent = leg.keys[index - 1] if index else None
            leg.num_private -= self.pool.store(leg.keys[index], parent, leg.held)
        leg.num_stored = max(leg.num_stored, num_full)

    def free(self, leg: Leg, num_generated: int = 0) -> None:
        """Returns a leg's blocks, with those of the tokens that it generated while decoding.

        What it generated stays in the cache, as its prompt does; its last token was not computed.
        """
        before = self._grown_blocks
        self._grow(-num_generated)
        leg.num_private += before - self._grown_blocks
        if num_generated:
            leg.num_computed = leg.num_known - 1
            self.store(leg)
        self.pool.release(leg.held, leg.num_private, self._num_content(leg))
        leg.held, leg.num_private, leg.num_stored = [], 0, 0

    def num_generated(self, leg: Leg) -> int:
        """Tokens of a decoding leg that are in no part of its times yet."""
        return self._num_decode_steps - leg.start_step if leg.leg_id in self.decoding else 0

    def times_so_far(self, leg: Leg) -> npt.NDArray[np.float64]:
        """The ends of the steps that gave a decoding leg its tokens.  # [num_generated]"""
        return self.steps.ends_s(leg.start_step + 1, self._num_decode_steps)

    def cancel(self, leg: Leg) -> None:
        """Takes a leg out of whatever it is in, and frees its blocks."""
        if leg in self.waiting or leg in self.prefilling:
            self.waiting_tokens -= leg.num_known - leg.num_computed
            (self.waiting if leg in self.waiting else self.prefilling).remove(leg)
            self.free(leg)
        elif leg.leg_id in self.decoding:
            self.free(leg, self.leave(leg))
        elif self.held.pop(leg.leg_id, None) is not None:
            self.free(leg)
        else:
            self.waiting_tokens -= _num_uncomputed(leg)
            self.pulled.remove(leg)
            self.free(leg)

    def check_integrity(self, pulling: list[Leg]) -> None:
        """Raises AssertionError when blocks or queues do not add up. pulling: legs under way."""
        running = (*self.prefilling, *self.decoding.values())
        with_blocks = (*pulling, *self.pulled, *running, *self.held.values())
        private = sum(leg.num_private for leg in with_blocks) + self._grown_blocks
        self.pool.check_integrity(private)
        assert self._grown_blocks == -(-self._grown_tokens // BLOCK_SIZE)
        assert self.num_running <= self.limits.max_running

    def _prefill(self, leg: Leg, budget: int, chunks: list[Chunk]) -> int:
        """Appends the leg's next chunk, if there is one, and gives its size."""
        return add_chunk(leg, budget, chunks)

    def _make_room(self) -> bool:
        """Preempts the latest legs until a step's new tokens fit; False when any was."""
        can_admit = True
        while self.decoding:
            grown = self._grown_tokens + len(self.decoding)
            if -(-grown // BLOCK_SIZE) - self._grown_blocks <= self.pool.num_free:
                break
            self._preempt(max(self.decoding.values(), key=_ORDER))
            can_admit = False
        return can_admit

    def _run(self, leg: Leg, now_s: float) -> None:
        """Gives a row to a leg that has its blocks."""
        if leg.arrived_s:
            self.join(leg)
        else:
            leg.scheduled_s = now_s
            insort(self.prefilling, leg, key=_ORDER)

    def _admit(self, now_s: float) -> Leg | None:
        if not self.waiting or not self._has_row:
            return None
        leg = self.waiting[0]
        expected = leg.num_known - leg.num_computed
        if not self._claim(leg, self._headroom()):
            return None
        self.waiting.pop(0)
        self.waiting_tokens += leg.num_known - leg.num_computed - expected
        if not leg.was_scheduled:
            leg.scheduled_s = now_s
        self.prefilling.append(leg)
        return leg

    def _claim(self, leg: Leg, spare: int) -> bool:
        """Gives the leg its cached prefix and blocks for all its tokens, or changes nothing."""
        pool = self.pool
        if pool.num_free <= spare:
            return False
        depth = self._cached_units(leg)
        num_new = leg.num_blocks - depth * pool.unit_blocks
        prefix = leg.keys[:depth]
        if not pool.can_claim(prefix, num_new + spare):
            return False
        self._keep_behind(leg, depth)
        pool.claim(prefix, num_new)
        leg.held = list(prefix)
        leg.num_stored, leg.num_private = depth, num_new
        leg.num_computed = depth * self.limits.unit_tokens
        return True

    def _known_units(self, leg: Leg) -> int:
        """Those of its beginning that do not have to be computed."""
        return self._cached_units(leg)

    def _keep_behind(self, leg: Leg, depth: int) -> None:
        """Before blocks are taken for a leg, of which the pool has `depth` units."""

    def _num_content(self, leg: Leg) -> int:
        """Private blocks whose content stays when the leg leaves them."""
        return leg.num_private

    def _cached_units(self, leg: Leg) -> int:
        """The last token is always computed."""
        return min(self.pool.match(leg.keys), (leg.num_known - 1) // self.limits.unit_tokens)

    def _headroom(self) -> int:
        """A block for each running leg that can grow, so that admission does not preempt."""
        return len(self.decoding) + sum(not leg.prefill_only for leg in self.prefilling)

    @property
    def _has_row(self) -> bool:
        return self.num_running < self.limits.max_running

    def _is_current(self, entry: tuple[int, int, Leg]) -> bool:
        """The leg has not been preempted since it was to finish at that step."""
        step, _, leg = entry
        return leg.leg_id in self.decoding and leg.finish_step == step

    def leave(self, leg: Leg) -> int:
        """Takes a leg out of the batch; gives the tokens that it generated there."""
        num_generated = self.num_generated(leg)
        if num_generated:
            leg.times.append(self.times_so_far(leg))
        leg.running_times = None
        del self.decoding[leg.leg_id]
        leg.num_known += num_generated
        leg.num_left -= num_generated
        self.context_tokens -= leg.num_known
        return num_generated

    def _preempt(self, leg: Leg) -> None:
        self.free(leg, self.leave(leg))
        self.num_preemptions += 1
        leg.num_computed = 0
        self.waiting_tokens += leg.num_known
        insort(self.waiting, leg, key=_ORDER)

    def _grow(self, num_tokens: int) -> None:
        """Counts generated tokens; whoever takes them away gives their blocks to the pool."""
        self._grown_tokens += num_tokens
        num_blocks = -(-self._grown_tokens // BLOCK_SIZE)
        if num_blocks > self._grown_blocks:
            self.pool.take(num_blocks - self._grown_blocks)
        self._grown_blocks = num_blocks


def _num_uncomputed(leg: Leg) -> int:
    """Of a leg whose pull has ended: what did not come has to be computed."""
    return 0 if leg.arrived_s else leg.num_known - leg.num_computed
