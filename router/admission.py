"""Who gets in, and in which order: a bounded number under way, a bounded queue by class."""

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field

from router.policies.policy import Forecast
from runtime.clock import Clock
from runtime.metrics import Metrics
from wire.errors import BatonError, ErrorCode

_MIN_RETRY_S = 1.0
_MAX_RETRY_S = 60.0
_RATE_WEIGHT = 0.1


@dataclass(slots=True, order=True)
class _Waiter:
    """Higher classes first, then the earlier. A future that is done is no waiter any more."""

    rank: tuple[int, int]
    entered: "asyncio.Future[None]" = field(compare=False)


class Admission:
    """Slots of requests under way. enter() takes one and leave() gives it back, in pairs.

        enter --slot free--> HOLDS;  enter --none free--> WAITS --slot--> HOLDS
        enter --queue full of its class or higher--> rejected
        WAITS --a higher class needs the place--> evicted

    Both failures are OVERLOADED, with the time in which the queue drains.
    """

    def __init__(self, max_under_way: int, max_queued: int, clock: Clock, metrics: Metrics) -> None:
        self._max_under_way = max_under_way
        self._max_queued = max_queued
        self._clock = clock
        self._metrics = metrics
        self._num_under_way = 0
        self._waiting: list[_Waiter] = []
        self._ordinals = itertools.count()
        self._left_at_s: float | None = None
        self._gap_s = 0.0  # between two that leave, smoothed

    @property
    def num_under_way(self) -> int:
        return self._num_under_way

    @property
    def num_queued(self) -> int:
        return sum(not waiter.entered.done() for waiter in self._waiting)

    async def enter(self, priority: int) -> None:
        """Returns with a slot. Raises BatonError OVERLOADED, rejected or evicted."""
        if self._num_under_way < self._max_under_way:
            self._num_under_way += 1
            return
        if self.num_queued >= self._max_queued:
            self._evict_below(priority)
        waiter = _Waiter(
            (-priority, next(self._ordinals)), asyncio.get_running_loop().create_future()
        )
        heapq.heappush(self._waiting, waiter)
        try:
            await waiter.entered
        except asyncio.CancelledError:
            if waiter.entered.done() and not waiter.entered.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """The slot goes to the first in the queue."""
        now_s = self._clock.now()
        if self._left_at_s is not None:
            self._gap_s += _RATE_WEIGHT * (now_s - self._left_at_s - self._gap_s)
        self._left_at_s = now_s
        while self._waiting:
            waiter = heapq.heappop(self._waiting)
            if not waiter.entered.done():
                waiter.entered.set_result(None)
                return
        self._num_under_way -= 1

    def check_integrity(self) -> None:
        """Raises AssertionError when somebody waits though there is room."""
        assert 0 <= self._num_under_way <= self._max_under_way
        assert not self.num_queued or self._num_under_way == self._max_under_way

    def _evict_below(self, priority: int) -> None:
        """Makes place in the queue or raises: the last of the lowest class goes."""
        waiting = [waiter for waiter in self._waiting if not waiter.entered.done()]
        last = max(waiting, default=None)
        if last is None or -last.rank[0] >= priority:
            raise self._refused("rejected", f"{len(waiting)} requests wait already")
        last.entered.set_exception(self._refused("evicted", "a higher class needs the place"))
        self._waiting.remove(last)
        heapq.heapify(self._waiting)

    def _refused(self, outcome: str, why: str) -> BatonError:
        self._metrics.counter("baton_admission_refused_total", reason=outcome).inc()
        drain_s = self._gap_s * (self.num_queued + 1)
        return overloaded(f"{outcome}: {why}", drain_s)


@dataclass(frozen=True, slots=True)
class Prospects:
    """Refuses what is predicted to miss its objective by far, before prefill is spent on it.

    max_ratio: of predicted over objective, for class 0; each class above it doubles that, each
    below halves it, so that lower classes are shed first. 0 refuses nothing.
    """

    max_ratio: float

    def refusal(
        self, forecast: Forecast, ttft_slo_s: float, tpot_slo_s: float, priority: int
    ) -> BatonError | None:
        """OVERLOADED with the time until the objective can be met again, or None."""
        limit = self.max_ratio * 2.0 ** max(-8, min(8, priority))
        if limit <= 0:
            return None
        late_s = forecast.ttft_s - limit * ttft_slo_s
        if late_s > 0 and forecast.queue_s > 0:
            return overloaded(f"rejected: first token in {forecast.ttft_s:.1f} s", late_s)
        if forecast.tpot_s > limit * tpot_slo_s:
            message = f"rejected: {1e3 * forecast.tpot_s:.0f} ms a token are predicted"
            return overloaded(message, forecast.tpot_s / tpot_slo_s)
        return None


def overloaded(message: str, drain_s: float) -> BatonError:
    retry_s = min(_MAX_RETRY_S, max(_MIN_RETRY_S, drain_s))
    return BatonError(ErrorCode.OVERLOADED, message, retry_after_s=retry_s)
