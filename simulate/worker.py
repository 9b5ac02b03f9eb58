"""A worker in virtual time: the engine's scheduling rules, with a profile's step times.

Runs of decode-only steps are one event: their ends follow from a formula, and a command that comes
in the middle cuts the run at the end of the step that is under way, which is when a real worker
would read it.
"""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Protocol

import numpy as np

from profiles.profile import Profile
from simulate.event_loop import EventLoop
from simulate.kv_pool import KvPool
from simulate.leg import Leg
from simulate.step_log import StepLog, steps_begun, stretch_end_s
from simulate.totals import add_stretch
from wire.block_hash import BLOCK_SIZE
from wire.messages import BlockEvent, Role, StepTotals, WorkerReport

_ORDER = attrgetter("order")
_FOREVER = 1 << 60


class WorkerListener(Protocol):
    """What a worker tells, at the end of the step that brought it about."""

    def accepted(self, leg: Leg, num_cached_tokens: int) -> None: ...

    def published(self, leg: Leg) -> None: ...

    def token_sampled(self, leg: Leg, is_last: bool) -> None:
        """The leg's first token or, where is_last, its last."""

    def blocks_changed(self, worker_id: str, event: BlockEvent) -> None: ...


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


@dataclass(slots=True)
class _Stretch:
    """The step that runs, or a run of decode steps. chunks: (leg, end) of prefill."""

    start_s: float
    base_s: float
    slope_s: float
    count: int
    chunks: list[tuple[Leg, int]]


class ModelledWorker:
    """Commands in, listener calls out. One step at a time, as long as there is work.

    Owns its legs' blocks: a prefill leg's are freed by its `release`, all others at their end.
    """

    def __init__(
        self,
        worker_id: str,
        role: Role,
        profile: Profile,
        limits: WorkerLimits,
        loop: EventLoop,
        listener: WorkerListener,
    ) -> None:
        self.worker_id = worker_id
        self.role = role
        self.profile = profile
        self.steps = StepLog()
        self.pool = KvPool(profile.kv_tokens // BLOCK_SIZE, limits.unit_tokens // BLOCK_SIZE)
        self.num_preemptions = 0
        self.busy_s = 0.0
        self._limits = limits
        self._loop = loop
        self._listener = listener
        self._inbox: deque[tuple[Callable[[Leg], None], Leg]] = deque()
        self._intake: deque[Leg] = deque()
        self._pulling: dict[int, Leg] = {}
        self._waiting: list[Leg] = []
        self._ready: list[Leg] = []
        self._prefilling: list[Leg] = []
        self._decoding: dict[int, Leg] = {}
        self._held: dict[int, Leg] = {}
        self._finishes: list[tuple[int, int, Leg]] = []  # finish step, order, leg
        self._context_tokens = 0
        self._waiting_tokens = 0
        self._grown_tokens = 0  # generated since their legs got blocks
        self._grown_blocks = 0
        self._num_decode_steps = 0
        self._num_steps = 0
        self._totals = StepTotals()
        self._num_legs = 0
        self._link_free_s = 0.0
        self._accepted: list[tuple[Leg, int]] = []
        self._stretch: _Stretch | None = None
        self._version = 0

    # --- commands ------------------------------------------------------------------------------

    def start(self, leg: Leg) -> None:
        self._post(self._start, leg)

    def report(self) -> WorkerReport:
        return WorkerReport(
            role=self.role,
            num_steps=self._num_steps,
            has_work=self._stretch is not None,
            num_running=len(self._prefilling) + len(self._decoding),
            num_waiting=len(self._waiting) + len(self._ready) + len(self._intake),
            waiting_tokens=self._waiting_tokens,
            num_blocks=self.pool.num_blocks,
            num_free_blocks=self.pool.num_free,
            context_tokens=self._context_tokens,
            num_exports=len(self._held),
            num_imports=len(self._pulling) + len(self._intake),
            totals=self._totals,
        )

    def check_integrity(self) -> None:
        """Raises AssertionError when blocks or queues do not add up."""
        with_blocks = (
            *self._pulling.values(),
            *self._ready,
            *self._prefilling,
            *self._decoding.values(),
            *self._held.values(),
        )
        private = sum(leg.num_private for leg in with_blocks) + self._grown_blocks
        self.pool.check_integrity(private)
        assert self._grown_blocks == -(-self._grown_tokens // BLOCK_SIZE)
        assert len(self._prefilling) + len(self._decoding) <= self._limits.max_running

    @property
    def is_quiet(self) -> bool:
        return self._stretch is None and not (
            self._inbox or self._intake or self._pulling or self._waiting or self._held
        )

    # --- the loop ------------------------------------------------------------------------------

    def _post(self, command: Callable[[Leg], None], leg: Leg) -> None:
        self._inbox.append((command, leg))
        stretch = self._stretch
        if stretch is None:
            self._turn()
        elif stretch.count > 1:
            now_s = self._loop.now()
            count = steps_begun(stretch.start_s, stretch.base_s, stretch.slope_s, now_s)
            if count < stretch.count:
                stretch.count = count
                self._plan_end(stretch)

    def _turn(self) -> None:
        """Commands, then pulls, then one step or a run of them."""
        while self._inbox:
            command, leg = self._inbox.popleft()
            command(leg)
        self._begin_pulls()
        while self._ready and self._has_row:
            self._join_decoding(self._ready.pop(0))
        can_admit = self._make_room()
        chunks = self._schedule_prefill(can_admit)
        num_decodes = len(self._decoding)
        if not chunks and not num_decodes:
            self._stretch = None
            self._flush()
            return
        profile = self.profile
        base_s = profile.decode_s(num_decodes, self._context_tokens)
        base_s += sum(self._chunk_s(leg.num_computed, end) for leg, end in chunks)
        if any(end - leg.num_computed > 1 for leg, end in chunks):
            base_s += profile.prefill_step_s
        count = 1 if chunks else self._num_free_running_steps()
        slope_s = profile.context_token_s * num_decodes
        self._stretch = _Stretch(self._loop.now(), base_s, slope_s, count, chunks)
        self._plan_end(self._stretch)

    def _chunk_s(self, start: int, end: int) -> float:
        """One token alone is what a decoding sequence is."""
        if end - start == 1:
            return self.profile.sequence_s + self.profile.context_token_s * end
        return self.profile.chunk_s(start, end)

    def _plan_end(self, stretch: _Stretch) -> None:
        self._version += 1
        end_s = stretch_end_s(stretch.start_s, stretch.base_s, stretch.slope_s, stretch.count)
        self._loop.at(max(end_s, self._loop.now()), self._end, self._version)

    def _end(self, version: int) -> None:
        stretch = self._stretch
        if version != self._version or stretch is None:
            return
        self.busy_s += self._loop.now() - stretch.start_s
        self._num_steps += stretch.count
        self._totals = add_stretch(
            self._totals,
            seconds=self._loop.now() - stretch.start_s,
            count=stretch.count,
            num_decodes=len(self._decoding),
            context_tokens=self._context_tokens,
            chunks=stretch.chunks,
        )
        self._count_decodes(stretch)
        for leg, end in stretch.chunks:
            self._computed(leg, end)
        while self._finishes and self._finishes[0][0] <= self._num_decode_steps:
            _, _, leg = heapq.heappop(self._finishes)
            if leg.leg_id in self._decoding and leg.finish_step <= self._num_decode_steps:
                self._finish(leg)
        self._flush()
        self._turn()

    def _count_decodes(self, stretch: _Stretch) -> None:
        num_decodes = len(self._decoding)
        if not num_decodes:
            return
        first = self._num_decode_steps + 1
        self.steps.append(first, stretch.start_s, stretch.base_s, stretch.slope_s, stretch.count)
        self._num_decode_steps += stretch.count
        num_tokens = num_decodes * stretch.count
        self._context_tokens += num_tokens
        self._grow(num_tokens)

    # --- scheduling ----------------------------------------------------------------------------

    def _num_free_running_steps(self) -> int:
        """Decode steps until the first leg ends or memory runs out, at least one."""
        self._drop_stale_finishes()
        until_finish = self._finishes[0][0] - self._num_decode_steps
        room_tokens = self.pool.num_free * BLOCK_SIZE
        return max(1, min(until_finish, room_tokens // len(self._decoding)))

    def _drop_stale_finishes(self) -> None:
        while self._finishes:
            step, _, leg = self._finishes[0]
            if leg.leg_id in self._decoding and leg.finish_step == step:
                return
            heapq.heappop(self._finishes)

    def _make_room(self) -> bool:
        """Preempts the latest legs until a step's new tokens fit; False when any was."""
        can_admit = True
        while self._decoding:
            grown = self._grown_tokens + len(self._decoding)
            if -(-grown // BLOCK_SIZE) - self._grown_blocks <= self.pool.num_free:
                break
            self._preempt(max(self._decoding.values(), key=_ORDER))
            can_admit = False
        return can_admit

    def _schedule_prefill(self, can_admit: bool) -> list[tuple[Leg, int]]:
        budget = self._limits.max_batch_tokens - len(self._decoding)
        chunks: list[tuple[Leg, int]] = []
        for leg in self._prefilling:
            if budget <= 0:
                break
            budget -= self._chunk(leg, budget, chunks)
        while can_admit and budget > 0 and (admitted := self._admit()) is not None:
            budget -= self._chunk(admitted, budget, chunks)
        return chunks

    def _chunk(self, leg: Leg, budget: int, chunks: list[tuple[Leg, int]]) -> int:
        start = leg.num_computed
        end = min(leg.num_known, start + budget)
        edge = end - end % BLOCK_SIZE
        if end < leg.num_known and edge > start:
            end = edge
        chunks.append((leg, end))
        return end - start

    def _admit(self) -> Leg | None:
        if not self._waiting or not self._has_row:
            return None
        leg = self._waiting[0]
        expected = leg.num_known - leg.num_computed
        if not self._claim(leg, self._headroom()):
            return None
        self._waiting.pop(0)
        self._waiting_tokens += leg.num_known - leg.num_computed - expected
        if not leg.was_scheduled:
            leg.scheduled_s = self._loop.now()
        self._prefilling.append(leg)
        return leg

    def _claim(self, leg: Leg, spare: int) -> bool:
        """Gives the leg its cached prefix and blocks for all its tokens, or changes nothing."""
        pool, unit_tokens = self.pool, self._limits.unit_tokens
        if pool.num_free <= spare:
            return False
        depth = min(pool.match(leg.keys), (leg.num_known - 1) // unit_tokens)
        num_new = leg.num_blocks - depth * pool.unit_blocks
        prefix = leg.keys[:depth]
        if not pool.claim(prefix, num_new, spare):
            return False
        leg.held = list(prefix)
        leg.num_stored, leg.num_private = depth, num_new
        leg.num_computed = depth * unit_tokens
        return True

    def _headroom(self) -> int:
        growing = sum(not leg.prefill_only for leg in self._prefilling)
        return len(self._decoding) + growing

    @property
    def _has_row(self) -> bool:
        return len(self._prefilling) + len(self._decoding) < self._limits.max_running

    # --- a leg's progress ----------------------------------------------------------------------

    def _start(self, leg: Leg) -> None:
        self._num_legs += 1
        leg.order, leg.added_s = self._num_legs, self._loop.now()
        if leg.source is not None:
            self._intake.append(leg)
            return
        unit_tokens = self._limits.unit_tokens
        depth = min(self.pool.match(leg.keys), (leg.num_known - 1) // unit_tokens)
        # An estimate until the leg is admitted: it stands for what the queue will not compute.
        leg.num_computed = depth * unit_tokens
        self._waiting_tokens += leg.num_known - leg.num_computed
        self._waiting.append(leg)
        self._accepted.append((leg, leg.num_computed))

    def _begin_pulls(self) -> None:
        while self._intake:
            leg = self._intake[0]
            spare = self._headroom()
            if self._waiting:
                spare += self._waiting[0].num_blocks
            if not self._claim(leg, spare):
                return
            self._intake.popleft()
            self._pulling[leg.leg_id] = leg
            self._accepted.append((leg, leg.num_computed))
            self._pull(leg)

    def _pull(self, leg: Leg) -> None:
        """The link into this worker carries one byte at a time, in the order of the pulls."""
        now_s, source = self._loop.now(), leg.source
        assert source is not None
        carry_s = self.profile.kv_transfer_s(leg.num_known - leg.num_computed)
        leg.pull_begun_s = now_s
        leg.pull_carried_s = max(now_s, self._link_free_s) + carry_s
        leg.pull_tail_s = carry_s / self.profile.num_layer_groups
        self._link_free_s = leg.pull_carried_s
        if source.is_complete:
            self._expect(leg)
        else:
            source.on_complete = partial(self._expect, leg)

    def _expect(self, leg: Leg) -> None:
        """Prefill has ended: when the pull is done is known."""
        leg.prefilled_s = self._loop.now()
        done_s = max(self._loop.now() + leg.pull_tail_s, leg.pull_carried_s)
        besides_s = self.profile.link_latency_s + self._limits.pull_s
        self._loop.at(done_s + besides_s, self._post, self._arrive, leg)

    def _arrive(self, leg: Leg) -> None:
        del self._pulling[leg.leg_id]
        leg.num_computed = leg.num_known
        leg.num_known += 1
        leg.num_left -= 1
        leg.arrived_s = self._loop.now()
        self._listener.token_sampled(leg, is_last=False)
        self._store(leg)
        assert leg.source is not None and leg.source.release is not None
        leg.source.release()
        insort(self._ready, leg, key=_ORDER)

    def _computed(self, leg: Leg, end: int) -> None:
        """A prefill chunk's step has ended."""
        self._waiting_tokens -= end - leg.num_computed
        leg.num_computed = end
        self._store(leg)
        if not leg.was_scheduled:
            leg.was_scheduled = True
            if leg.prefill_only:
                leg.release = partial(self._post, self._release, leg)
                self._listener.published(leg)
        if end < leg.num_known:
            return
        self._prefilling.remove(leg)
        leg.num_known += 1
        leg.num_left -= 1
        leg.times.append(np.array([self._loop.now()]))
        self._listener.token_sampled(leg, is_last=leg.num_left == 0)
        if leg.prefill_only:
            self._held[leg.leg_id] = leg
            leg.is_complete = True
            if leg.on_complete is not None:
                leg.on_complete()
        elif leg.num_left:
            self._join_decoding(leg)
        else:
            self._free(leg)

    def _join_decoding(self, leg: Leg) -> None:
        leg.start_step = self._num_decode_steps
        leg.finish_step = leg.start_step + leg.num_left
        self._decoding[leg.leg_id] = leg
        self._context_tokens += leg.num_known
        heapq.heappush(self._finishes, (leg.finish_step, leg.order, leg))

    def _leave_decoding(self, leg: Leg) -> int:
        """Takes a leg out of the batch; gives the tokens that it generated there."""
        del self._decoding[leg.leg_id]
        num_generated = self._num_decode_steps - leg.start_step
        leg.num_known += num_generated
        leg.num_left -= num_generated
        self._context_tokens -= leg.num_known
        if num_generated:
            leg.times.append(self.steps.ends_s(leg.start_step + 1, self._num_decode_steps))
        return num_generated

    def _finish(self, leg: Leg) -> None:
        num_generated = self._leave_decoding(leg)
        self._listener.token_sampled(leg, is_last=True)
        self._free(leg, num_generated)
        oldest = min((other.start_step for other in self._decoding.values()), default=_FOREVER)
        self.steps.forget_before(min(oldest, self._num_decode_steps))

    def _preempt(self, leg: Leg) -> None:
        num_generated = self._leave_decoding(leg)
        self._free(leg, num_generated)
        self.num_preemptions += 1
        leg.num_computed = 0
        self._waiting_tokens += leg.num_known
        insort(self._waiting, leg, key=_ORDER)

    def _release(self, leg: Leg) -> None:
        if self._held.pop(leg.leg_id, None) is not None:
            self._free(leg)

    def _free(self, leg: Leg, num_generated: int = 0) -> None:
        before = self._grown_blocks
        self._grow(-num_generated)
        self.pool.release(
            leg.held, leg.num_private + before - self._grown_blocks, leaves_content=True
        )
        leg.held, leg.num_private, leg.num_stored = [], 0, 0

    def _grow(self, num_tokens: int) -> None:
        """Counts generated tokens; whoever takes them away gives their blocks to the pool."""
        self._grown_tokens += num_tokens
        num_blocks = -(-self._grown_tokens // BLOCK_SIZE)
        if num_blocks > self._grown_blocks:
            self.pool.take(num_blocks - self._grown_blocks)
        self._grown_blocks = num_blocks

    def _store(self, leg: Leg) -> None:
        """Offers the units that are computed since the last time to the cache."""
        num_full = min(leg.num_computed // self._limits.unit_tokens, len(leg.keys))
        for key in leg.keys[leg.num_stored : num_full]:
            if self.pool.store(key):
                leg.held.append(key)
                leg.num_private -= self.pool.unit_blocks
        leg.num_stored = max(leg.num_stored, num_full)

    def _flush(self) -> None:
        """A worker answers when its step has ended, with all that gathered meanwhile."""
        accepted, self._accepted = self._accepted, []
        for leg, num_cached_tokens in accepted:
            self._listener.accepted(leg, num_cached_tokens)
        event = self.pool.take_event()
        if event is not None:
            self._listener.blocks_changed(self.worker_id, event)
