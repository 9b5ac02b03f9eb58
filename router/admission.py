"""Who gets in, and in which order: a bounded number under way, a bounded fair queue behind it."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from router.fair_queue import FairQueue, Ticket
from router.prospects import overloaded
from router.saturation import Saturation
from runtime.clock import Clock
from runtime.metrics import Metrics
from wire.errors import BatonError
from wire.messages import GenerateRequest

OUTPUT_TOKEN_COST = 2.0  # in prompt tokens that are computed, as in the paper of fair_queue
_RATE_WEIGHT = 0.1
_ANSWER_WEIGHT = 0.02
_FIRST_ANSWER_TOKENS = 200.0
_SHED_FROM = 0.8
_LOOK_AGAIN_S = 0.02


@dataclass(frozen=True, slots=True)
class Offer:
    """What came of a ticket: it entered, or it waits, or it was refused for a reason.

    evicted: who left the queue for it.
    """

    entered: bool = False
    refused: str = ""
    evicted: Ticket | None = None


class Door:
    """Slots and queue without a loop or a clock: the live router and the simulation run it.

        offer --room--> under way;   offer --no room--> waits --admit--> under way --leave--> gone
        offer --shed, or the queue is full of its class or higher--> refused
        waits --a higher class, or a tenant with a shorter queue, needs the place--> evicted

    Who is under way holds a slot until leave(). is_full of the saturation keeps the door shut while
    somebody is under way: what waits here can still be put in order, what waits at a worker cannot.
    """

    def __init__(self, max_under_way: int, max_queued: int) -> None:
        self._max_under_way = max_under_way
        self._max_queued = max_queued
        self._queue = FairQueue()
        self._num_under_way = 0
        self._shedding: dict[int, float] = {}  # by class, what is owed of a request to shed
        self._left_at_s: float | None = None
        self._gap_s = 0.0  # between two that leave, smoothed

    @property
    def num_under_way(self) -> int:
        return self._num_under_way

    @property
    def num_queued(self) -> int:
        return len(self._queue)

    @property
    def drain_s(self) -> float:
        """In which the queue and one more would have entered, at the pace of the last ones."""
        return self._gap_s * (len(self._queue) + 1)

    def offer(self, ticket: Ticket, full: Saturation) -> Offer:
        """A request comes. Nobody overtakes who waits already: that is admit's to say."""
        level = max(full.level, self._num_under_way / self._max_under_way)
        if self._is_shed(ticket.priority, level):
            return Offer(refused=f"shed: the cluster is at {100 * level:.0f} % of what it can take")
        if not len(self._queue) and self._has_room(full):
            self._queue.push(ticket)
            self._queue.pop(ticket.arrived_s)
            self._num_under_way += 1
            return Offer(entered=True)
        victim = None
        if len(self._queue) >= self._max_queued:
            victim = self._queue.victim_for(ticket)
            if victim is None:
                return Offer(refused=f"rejected: {len(self._queue)} requests wait already")
            self._queue.remove(victim)
        self._queue.push(ticket)
        return Offer(evicted=victim)

    def admit(self, now_s: float, full: Saturation) -> Ticket | None:
        """The next that enters now, None while nobody waits or there is no room."""
        ticket = self._queue.pop(now_s) if len(self._queue) and self._has_room(full) else None
        self._num_under_way += ticket is not None
        return ticket

    def withdraw(self, ticket: Ticket) -> bool:
        """It does not want to wait any more; False: it does not wait."""
        return self._queue.remove(ticket)

    def expired(self, before_s: float) -> list[Ticket]:
        """Those that have waited since before that time; they leave the queue."""
        return self._queue.expired(before_s) if len(self._queue) else []

    def leave(self, ticket: Ticket, cost: float, now_s: float) -> None:
        """Its slot is free. cost: what it took in truth, which its tenant is charged."""
        self._num_under_way -= 1
        self._queue.charge(ticket, cost - ticket.cost)
        if self._left_at_s is not None:
            self._gap_s += _RATE_WEIGHT * (now_s - self._left_at_s - self._gap_s)
        self._left_at_s = now_s

    def check_integrity(self) -> None:
        """Raises AssertionError when the counts are impossible."""
        assert 0 <= self._num_under_way <= self._max_under_way
        assert len(self._queue) <= self._max_queued
        self._queue.check_integrity()

    def _has_room(self, full: Saturation) -> bool:
        if self._num_under_way >= self._max_under_way:
            return False
        return not full.is_full or not self._num_under_way

    def _is_shed(self, priority: int, level: float) -> bool:
        """Classes below 0 lose a share that grows from 0 at 80 %, k times as fast for class k.

        The share is taken evenly: each request owes its part, and who brings it to one goes.
        """
        share = min(1.0, priority * (level - _SHED_FROM) / (1 - _SHED_FROM))
        if priority <= 0 or share <= 0:
            return False
        owed = self._shedding.get(priority, 0.0) + share
        self._shedding[priority] = owed - (owed >= 1)
        return owed >= 1


class Admission:
    """The door in an event loop. enter() takes a slot and leave() gives it back, in pairs.

    All refusals are OVERLOADED, with the time in which the queue drains: rejected or shed before
    the queue, evicted from it. look: the cluster's saturation at this moment.
    """

    def __init__(
        self,
        max_under_way: int,
        max_queued: int,
        clock: Clock,
        metrics: Metrics,
        look: Callable[[], Saturation] = Saturation,
        max_wait_s: float = 60.0,
    ) -> None:
        self._door = Door(max_under_way, max_queued)
        self._clock = clock
        self._metrics = metrics
        self._look = look
        self._max_wait_s = max_wait_s
        self._ordinals = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}  # by the ticket's ordinal
        self._timer: asyncio.TimerHandle | None = None
        self._answer_tokens = _FIRST_ANSWER_TOKENS  # the mean, smoothed

    @property
    def num_under_way(self) -> int:
        return self._door.num_under_way

    @property
    def num_queued(self) -> int:
        return self._door.num_queued

    def ticket(self, request: GenerateRequest, ttft_slo_s: float) -> Ticket:
        """Of a request that arrives now. Its answer is taken for as long as others' were."""
        terms, now_s = request.terms, self._clock.now()
        answer_tokens = min(float(request.sampling.max_tokens), self._answer_tokens)
        return Ticket(
            next(self._ordinals),
            request.priority,
            terms.tenant,
            terms.weight,
            work_tokens(len(request.prompt_tokens), answer_tokens),
            now_s + ttft_slo_s,
            now_s,
        )

    async def enter(self, ticket: Ticket) -> None:
        """Returns with a slot. Raises BatonError OVERLOADED: rejected, shed or evicted."""
        offer = self._door.offer(ticket, self._look())
        if offer.refused:
            raise self._refused(offer.refused)
        if offer.evicted is not None:
            self._evict(
                offer.evicted, "evicted: a higher class or a smaller tenant needs the place"
            )
        if offer.entered:
            return
        waiting = self._waiting[ticket.ordinal] = asyncio.get_running_loop().create_future()
        self._publish()
        self._look_again()
        try:
            await waiting
        except asyncio.CancelledError:
            if self._waiting.pop(ticket.ordinal, None) is not None:
                self._door.withdraw(ticket)
            elif not waiting.cancelled() and waiting.exception() is None:
                self.leave(ticket, 0, 0)
            raise

    def leave(self, ticket: Ticket, num_computed: int, num_output: int) -> None:
        """Gives the slot back: of the prompt so many tokens were computed, and so many given."""
        if num_output:
            self._answer_tokens += _ANSWER_WEIGHT * (num_output - self._answer_tokens)
        self._door.leave(ticket, work_tokens(num_computed, num_output), self._clock.now())
        if self._waiting:
            self._admit()

    def check_integrity(self) -> None:
        """Raises AssertionError when the counts are impossible or a waiting request is lost."""
        self._door.check_integrity()
        assert len(self._waiting) == self._door.num_queued, "a waiting request is lost"

    def _admit(self) -> None:
        full, now_s = self._look(), self._clock.now()
        while (ticket := self._door.admit(now_s, full)) is not None:
            self._waiting.pop(ticket.ordinal).set_result(None)
        for ticket in self._door.expired(now_s - self._max_wait_s):
            self._evict(ticket, f"evicted: no room came within {self._max_wait_s:.0f} s")
        self._publish()

    def _look_again(self) -> None:
        """Room comes without a leave() too: the load falls, and other routers have theirs."""
        if self._timer is None and self._waiting:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_LOOK_AGAIN_S, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._admit()
        self._look_again()

    def _evict(self, ticket: Ticket, why: str) -> None:
        self._waiting.pop(ticket.ordinal).set_exception(self._refused(why))

    def _refused(self, why: str) -> BatonError:
        reason = why.partition(":")[0]
        self._metrics.counter("baton_admission_refused_total", reason=reason).inc()
        return overloaded(why, self._door.drain_s)

    def _publish(self) -> None:
        self._metrics.gauge("baton_admission_queued").set(self._door.num_queued)


def work_tokens(num_computed: int, num_output: float) -> float:
    """A request's work in prompt tokens that are computed."""
    return num_computed + OUTPUT_TOKEN_COST * num_output
