"""The planner's observation, put together from whoever knows each part."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from control_plane.actuators.actuator import PoolStatus
from control_plane.observe.reading import Reading, ReadingError, TrafficSource
from control_plane.observe.workers import WorkerWatch
from control_plane.planner.types import Observation, PoolFigures, Traffic
from runtime.clock import Clock
from runtime.log import get_logger
from wire.cluster import Mode, WorkerStatus
from wire.messages import Role

_log = get_logger("control_plane")


@dataclass(frozen=True, slots=True)
class Seen:
    """Where an observation comes from. starting: what the actuator has been asked for."""

    workers: Callable[[], tuple[WorkerStatus, ...]]
    starting: Callable[[], Awaitable[tuple[PoolStatus, ...]]]
    traffic: TrafficSource


class Observer:
    """One call a tick. A source that fails leaves the last reading, which grows old."""

    def __init__(
        self, seen: Seen, watch: WorkerWatch, clock: Clock, wall_s: Callable[[], float]
    ) -> None:
        self._seen = seen
        self._watch = watch
        self._clock = clock
        self._wall_s = wall_s
        self._reading: Reading | None = None
        self._read_at_s = 0.0
        self.mode_scores: tuple[tuple[Mode, float], ...] = ()

    async def observe(self) -> Observation:
        """Never raises: what cannot be had is None or old."""
        reading = await self._read()
        platform = {status.role: status for status in await self._seen.starting()}
        now_s = self._clock.now()
        sent = reading.output_tokens_per_s if reading else float("nan")
        return Observation(
            at_s=now_s,
            wall_s=self._wall_s(),
            workers=self._watch.figures(self._seen.workers(), now_s, sent),
            traffic=self._aged(reading.traffic, now_s) if reading else None,
            prefill=reading.prefill if reading else PoolFigures(),
            decode=reading.decode if reading else PoolFigures(),
            starting_prefill=_starting(platform.get(Role.PREFILL)),
            starting_decode=_starting(platform.get(Role.DECODE)),
            mode_scores=self.mode_scores,
            goodput_per_s=reading.goodput_per_s if reading else float("nan"),
            num_refused=reading.num_refused if reading else 0.0,
        )

    async def _read(self) -> Reading | None:
        try:
            self._reading = await self._seen.traffic.read()
            self._read_at_s = self._clock.now()
        except ReadingError as error:
            _log.warning("the traffic could not be read", reason=str(error))
        return self._reading

    def _aged(self, traffic: Traffic, now_s: float) -> Traffic:
        return replace(traffic, age_s=traffic.age_s + now_s - self._read_at_s)


def _starting(status: PoolStatus | None) -> int:
    return 0 if status is None else status.starting
