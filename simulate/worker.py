"""A worker in virtual time: the engine's scheduling rules, with a profile's step times.

Runs of decode-only steps are one event: their ends follow from a formula, and a command that comes
in the middle cuts the run at the end of the step that is under way, which is when a real worker
would read it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from profiles.profile import Profile
from simulate.batch import Batch, Chunk, WorkerLimits
from simulate.event_loop import EventLoop
from simulate.leg import Leg
from simulate.step_log import steps_begun, stretch_end_s
from simulate.totals import add_stretch
from wire.block_hash import BLOCK_SIZE
from wire.messages import BlockEvent, Role, StepTotals, WorkerReport


class WorkerListener(Protocol):
    """What a worker tells, at the end of the step that brought it about."""

    def accepted(self, leg: Leg, num_cached_tokens: int) -> None: ...

    def published(self, leg: Leg) -> None: ...

    def token_sampled(self, leg: Leg, is_last: bool) -> None:
        """The leg's first token or, where is_last, its last."""

    def blocks_changed(self, worker_id: str, event: BlockEvent) -> None: ...


@dataclass(slots=True)
class _Stretch:
    """The step that runs, or a run of decode steps."""

    start_s: float
    base_s: float
    slope_s: float
    count: int
    chunks: list[Chunk]


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
        self.busy_s = 0.0
        self._batch = Batch(limits, profile.kv_tokens // BLOCK_SIZE)
        self._pull_s = profile.link_latency_s + limits.pull_s
        self._loop = loop
        self._listener = listener
        self._inbox: deque[tuple[Callable[[Leg], None], Leg]] = deque()
        self._intake: deque[Leg] = deque()
        self._pulling: dict[int, Leg] = {}
        self._num_steps = 0
        self._totals = StepTotals()
        self._num_legs = 0
        self._link_free_s = 0.0
        self._accepted: list[tuple[Leg, int]] = []
        self._stretch: _Stretch | None = None
        self._version = 0

    @property
    def num_blocks(self) -> int:
        return self._batch.pool.num_blocks

    @property
    def num_preemptions(self) -> int:
        return self._batch.num_preemptions

    @property
    def is_quiet(self) -> bool:
        """Nothing runs, waits, is on its way or is held."""
        under_way = self._inbox or self._intake or self._pulling
        return self._stretch is None and self._batch.is_empty and not under_way

    def start(self, leg: Leg) -> None:
        self._post(self._start, leg)

    def take_role(self, role: Role, limits: WorkerLimits) -> None:
        """From the next step on; what runs and waits goes on."""
        self.role = role
        self._batch.limits = limits

    def report(self) -> WorkerReport:
        batch = self._batch
        return WorkerReport(
            role=self.role,
            num_steps=self._num_steps,
            has_work=self._stretch is not None,
            num_running=batch.num_running,
            num_waiting=len(batch.waiting) + len(batch.pulled) + len(self._intake),
            waiting_tokens=batch.waiting_tokens,
            num_blocks=batch.pool.num_blocks,
            num_free_blocks=batch.pool.num_free,
            context_tokens=batch.context_tokens,
            num_exports=len(batch.held),
            num_imports=len(self._pulling) + len(self._intake),
            totals=self._totals,
        )

    def check_integrity(self) -> None:
        """Raises AssertionError when blocks or queues do not add up."""
        self._batch.check_integrity(list(self._pulling.values()))

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
        chunks = self._batch.plan(self._loop.now())
        num_decodes = len(self._batch.decoding)
        if not chunks and not num_decodes:
            self._stretch = None
            self._flush()
            return
        count = 1 if chunks else self._batch.num_free_running_steps()
        slope_s = self.profile.context_token_s * num_decodes
        step_s = self._step_s(num_decodes, chunks)
        self._stretch = _Stretch(self._loop.now(), step_s, slope_s, count, chunks)
        self._plan_end(self._stretch)

    def _step_s(self, num_decodes: int, chunks: list[Chunk]) -> float:
        """The first step's time. A chunk of one token is what a decoding sequence is."""
        profile = self.profile
        step_s = profile.decode_s(num_decodes, self._batch.context_tokens)
        prefill_step_s = 0.0
        for chunk in chunks:
            if chunk.end - chunk.start == 1:
                step_s += profile.sequence_s + profile.context_token_s * chunk.end
            else:
                step_s += profile.chunk_s(chunk.start, chunk.end)
                prefill_step_s = profile.prefill_step_s
        return step_s + prefill_step_s

    def _plan_end(self, stretch: _Stretch) -> None:
        self._version += 1
        end_s = stretch_end_s(stretch.start_s, stretch.base_s, stretch.slope_s, stretch.count)
        self._loop.at(max(end_s, self._loop.now()), self._end, self._version)

    def _end(self, version: int) -> None:
        stretch = self._stretch
        if version != self._version or stretch is None:
            return
        self._count(stretch)
        self._batch.decoded(stretch.start_s, stretch.base_s, stretch.slope_s, stretch.count)
        for chunk in stretch.chunks:
            self._computed(chunk)
        for leg in self._batch.take_finished():
            self._listener.token_sampled(leg, is_last=True)
        self._flush()
        self._turn()

    def _count(self, stretch: _Stretch) -> None:
        taken_s = self._loop.now() - stretch.start_s
        self.busy_s += taken_s
        self._num_steps += stretch.count
        self._totals = add_stretch(
            self._totals,
            seconds=taken_s,
            count=stretch.count,
            num_decodes=len(self._batch.decoding),
            context_tokens=self._batch.context_tokens,
            chunks=stretch.chunks,
        )

    def _flush(self) -> None:
        """A worker answers when its step has ended, with all that gathered meanwhile."""
        accepted, self._accepted = self._accepted, []
        for leg, num_cached_tokens in accepted:
            self._listener.accepted(leg, num_cached_tokens)
        event = self._batch.pool.take_event()
        if event is not None:
            self._listener.blocks_changed(self.worker_id, event)

    # --- a leg's progress ----------------------------------------------------------------------

    def _start(self, leg: Leg) -> None:
        self._num_legs += 1
        leg.order, leg.added_s = self._num_legs, self._loop.now()
        if leg.source is not None:
            self._intake.append(leg)
        else:
            self._batch.enqueue(leg)
            self._accepted.append((leg, leg.num_computed))

    def _computed(self, chunk: Chunk) -> None:
        leg = chunk.leg
        self._batch.computed(chunk)
        if not leg.was_scheduled:
            leg.was_scheduled = True
            if leg.prefill_only:
                leg.release = partial(self._post, self._release, leg)
                self._listener.published(leg)
        if chunk.end == leg.num_known:
            self._prefilled(leg)

    def _prefilled(self, leg: Leg) -> None:
        """The whole prompt is in the cache, and the next token is known."""
        batch = self._batch
        batch.prefilling.remove(leg)
        leg.num_known += 1
        leg.num_left -= 1
        leg.times.append(np.array([self._loop.now()]))
        self._listener.token_sampled(leg, is_last=leg.num_left == 0)
        if leg.prefill_only:
            batch.held[leg.leg_id] = leg
            leg.is_complete = True
            if leg.on_complete is not None:
                leg.on_complete()
        elif leg.num_left:
            batch.join(leg)
        else:
            batch.free(leg)

    def _release(self, leg: Leg) -> None:
        if self._batch.held.pop(leg.leg_id, None) is not None:
            self._batch.free(leg)

    # --- KV from another worker ----------------------------------------------------------------

    def _begin_pulls(self) -> None:
        while self._intake and self._batch.reserve(self._intake[0]):
            leg = self._intake.popleft()
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
        self._loop.at(done_s + self._pull_s, self._post, self._arrive, leg)

    def _arrive(self, leg: Leg) -> None:
        del self._pulling[leg.leg_id]
        leg.num_computed = leg.num_known
        leg.num_known += 1
        leg.num_left -= 1
        leg.arrived_s = self._loop.now()
        self._listener.token_sampled(leg, is_last=False)
        self._batch.arrived(leg)
        assert leg.source is not None and leg.source.release is not None
        leg.source.release()
