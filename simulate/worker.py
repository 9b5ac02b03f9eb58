"""A worker's engine in virtual time: the engine's scheduling rules, with a profile's step times.

A command that comes in the middle of a run of steps is read at the end of the step that is under
way, which is when a real worker would read it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import numpy as np

from profiles.profile import Profile
from simulate.batch import WorkerLimits
from simulate.chunk import Chunk
from simulate.event_loop import EventLoop
from simulate.intake import Intake
from simulate.leg import Leg
from simulate.links import Links
from simulate.listener import WorkerListener
from simulate.steps import Steps
from simulate.tiered_batch import batch_of
from wire.messages import BlockSnapshot, Role, WorkerReport


class ModelledWorker:
    """Commands in, listener calls out. One step at a time, as long as there is work. rng: of the
    profile's scatter.

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
        links: Links,
        rng: Random,
    ) -> None:
        self.worker_id = worker_id
        self.role = role
        self.profile = profile
        self._batch = batch_of(profile, limits, loop.now)
        self._loop = loop
        self._listener = listener
        self._inbox: deque[tuple[Callable[[Leg], None], Leg]] = deque()
        self._intake = Intake(
            worker_id, profile, limits.pull_s, self._batch, links, loop, self._post, self._pulled
        )
        self._legs: dict[int, Leg] = {}
        self._steps = Steps(profile, self._batch, loop, self._step_ended, rng)
        self._num_legs = 0
        self._accepted: list[Leg] = []
        self._frozen_until_s = 0.0
        self._is_dead = False

    @property
    def busy_s(self) -> float:
        """Seconds in steps."""
        return self._steps.busy_s

    @property
    def num_blocks(self) -> int:
        return self._batch.pool.num_blocks

    @property
    def num_preemptions(self) -> int:
        return self._batch.num_preemptions

    @property
    def legs(self) -> tuple[Leg, ...]:
        """All that are not over."""
        return tuple(self._legs.values())

    @property
    def is_quiet(self) -> bool:
        """Nothing runs, waits, is on its way or is held; a dead worker is."""
        under_way = self._inbox or len(self._intake)
        idle = self._steps.is_idle and self._batch.is_empty and not under_way
        return self._is_dead or idle

    def start(self, leg: Leg) -> None:
        leg.worker_id = self.worker_id
        self._legs[leg.leg_id] = leg
        self._post(self._start, leg)

    def find(self, leg_id: int) -> Leg | None:
        return self._legs.get(leg_id)

    def cancel(self, leg: Leg) -> None:
        """Ends the leg in whatever state it is; its listener hears no more of it."""
        leg.is_cancelled = True
        self._post(self._cancel, leg)

    def take_role(self, role: Role, limits: WorkerLimits) -> None:
        """From the next step on; what runs and waits goes on."""
        self.role = role
        self._batch.limits = limits

    def num_made(self, leg: Leg) -> int:
        """Tokens of the answer that this leg knows by now, its source's first one included."""
        made = sum(len(part) for part in leg.times) + (leg.arrived_s > 0)
        return made + self._batch.num_generated(leg)

    def die(self) -> None:
        """The process is killed: nothing happens here any more, and what it held is gone."""
        self._steps.count_done()
        for leg in tuple(self._batch.decoding.values()):
            self._batch.leave(leg)
        self._is_dead = True
        self._steps.stop()
        for leg in self.legs:
            _lose(leg)

    def freeze(self, seconds: float) -> None:
        """The process is stopped for that long; the step under way ends later by as much."""
        self._frozen_until_s = self._loop.now() + seconds
        self._steps.freeze(seconds)
        for leg in self.legs:
            if leg.on_frozen is not None:
                leg.on_frozen(seconds)

    def report(self) -> WorkerReport:
        """As of now: steps of a run that are done count, and layers of the one under way."""
        batch = self._batch
        num_steps, totals, done = self._steps.so_far()
        layers = self._steps.num_layers_done(done)
        return WorkerReport(
            role=self.role,
            num_steps=num_steps,
            has_work=not self._steps.is_idle,
            num_running=batch.num_running,
            num_waiting=len(batch.waiting) + len(batch.pulled) + self._intake.num_waiting,
            waiting_tokens=batch.waiting_tokens,
            num_blocks=batch.pool.num_blocks,
            num_free_blocks=batch.pool.num_free,
            context_tokens=batch.context_tokens + done * len(batch.decoding),
            num_exports=len(batch.held),
            num_imports=len(self._intake),
            progress=num_steps * self.profile.num_layers + layers,
            totals=totals,
            host=batch.host,
        )

    def snapshot(self) -> BlockSnapshot:
        """All units that the cache holds, as of the last event."""
        return self._batch.pool.snapshot()

    def check_integrity(self) -> None:
        """Raises AssertionError when blocks or queues do not add up."""
        if not self._is_dead:
            self._batch.check_integrity(self._intake.pulling)

    # --- the loop ------------------------------------------------------------------------------

    def _post(self, command: Callable[[Leg], None], leg: Leg) -> None:
        if self._is_dead:
            return
        self._inbox.append((command, leg))
        if self._steps.is_idle:
            self._turn()
        else:
            self._steps.interrupt()

    def _turn(self) -> None:
        """Commands, then pulls, then one step or a run of them."""
        if self._loop.now() < self._frozen_until_s:
            self._loop.at(self._frozen_until_s, self._thaw)
            return
        while self._inbox:
            command, leg = self._inbox.popleft()
            command(leg)
        for leg in self._intake.begin():
            self._accept(leg)
        chunks = self._batch.plan(self._loop.now())
        for chunk in chunks:
            self._scheduled(chunk.leg)
        self._flush()
        if chunks or self._batch.decoding:
            self._steps.begin(chunks)
        else:
            self._steps.rest()

    def _thaw(self) -> None:
        if self._steps.is_idle and not self._is_dead:
            self._turn()

    def _step_ended(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._computed(chunk)
        for leg in self._batch.take_finished():
            del self._legs[leg.leg_id]
            self._listener.tokens_came(leg, is_last=True)
        self._turn()

    def _flush(self) -> None:
        """What gathered during a step goes out before the next one."""
        accepted, self._accepted = self._accepted, []
        for leg in accepted:
            self._listener.accepted(leg)
        event = self._batch.pool.take_event()
        if event is not None:
            self._listener.blocks_changed(event)

    # --- a leg's progress ----------------------------------------------------------------------

    def _start(self, leg: Leg) -> None:
        if leg.is_cancelled:
            return
        self._num_legs += 1
        leg.order, leg.added_s = self._num_legs, self._loop.now()
        if leg.is_share:
            self._share(leg)
        elif leg.source is not None:
            self._intake.add(leg)
        else:
            self._batch.enqueue(leg)
            self._accept(leg)

    def _accept(self, leg: Leg) -> None:
        leg.num_cached = leg.num_computed
        self._accepted.append(leg)

    def _share(self, leg: Leg) -> None:
        """Publishes what the cache holds of the leg's tokens."""
        if self._batch.hold(leg):
            self._accept(leg)
            leg.is_complete = True
            leg.release = partial(self._post, self._release, leg)
        else:
            del self._legs[leg.leg_id]
        self._listener.published(leg)

    def _scheduled(self, leg: Leg) -> None:
        """Readers follow a prompt from its first step on."""
        if not leg.was_scheduled:
            leg.was_scheduled = True
            if leg.prefill_only:
                leg.release = partial(self._post, self._release, leg)
                self._listener.published(leg)

    def _computed(self, chunk: Chunk) -> None:
        leg = chunk.leg
        self._batch.computed(chunk)
        if chunk.end == leg.num_known:
            self._prefilled(leg)

    def _prefilled(self, leg: Leg) -> None:
        """The whole prompt is in the cache, and the next token is known."""
        batch = self._batch
        batch.prefilling.remove(leg)
        leg.num_known += 1
        leg.num_left -= 1
        leg.times.append(np.array([self._loop.now()]))
        leg.first_s = leg.first_s or self._loop.now()
        if leg.prefill_only:
            batch.held[leg.leg_id] = leg
            leg.is_complete = True
            if leg.on_complete is not None:
                leg.on_complete()
        elif leg.num_left:
            batch.join(leg)
        else:
            batch.free(leg)
            del self._legs[leg.leg_id]
        self._listener.tokens_came(leg, is_last=leg.num_left == 0)

    def _release(self, leg: Leg) -> None:
        leg.release = None
        if self._batch.held.pop(leg.leg_id, None) is not None:
            del self._legs[leg.leg_id]
            self._batch.free(leg)

    def _pulled(self, leg: Leg, failure: str) -> None:
        """The KV is here, or what is missing of it has to be computed here."""
        source = leg.source
        assert source is not None
        if not failure and not source.is_share:
            self._arrive(leg)
        else:
            if not failure:
                leg.num_computed = max(leg.num_computed, source.num_computed)
            self._batch.arrived(leg)
        self._listener.transferred(leg, failure)
        if leg.arrived_s:
            self._listener.tokens_came(leg, is_last=leg.num_left == 0)
        if not failure and source.release is not None:
            source.release()

    def _arrive(self, leg: Leg) -> None:
        """All of it is here, and its first token with it."""
        leg.num_computed = leg.num_known
        leg.num_known += 1
        leg.num_left -= 1
        leg.arrived_s = self._loop.now()
        if leg.num_left:
            self._batch.arrived(leg)
        else:
            self._batch.free(leg)
            del self._legs[leg.leg_id]

    def _cancel(self, leg: Leg) -> None:
        if self._legs.pop(leg.leg_id, None) is None:
            return
        if leg.order and not self._intake.cancel(leg):
            self._batch.cancel(leg)
        elif leg.order:
            self._batch.free(leg)
        _lose(leg)


def _lose(leg: Leg) -> None:
    """Who pulls from it hears that there is nothing any more."""
    leg.is_lost = True
    if leg.on_lost is not None:
        leg.on_lost()
