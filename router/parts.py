"""Where a router meets the world: what a live process takes, and what a simulation puts there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.config import RouterConfig
from router.outlook import WorkerForecast
from router.predictor import StepPredictor
from router.prefix_map import PrefixMap
from router.stream import StreamOwner, WorkerStream
from router.watch import ClusterWatch
from wire.cluster import Mode, PoolProgress, ServingMode, WorkerInfo
from wire.messages import ClientFrame


class Stream(Protocol):
    """A session to one worker, opened again whenever it ends. See router.stream."""

    def open(self) -> None: ...

    def send(self, frame: ClientFrame) -> None: ...

    def works(self) -> None: ...

    def break_off(self) -> None: ...

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


class Watch(Protocol):
    """Tells the list of workers and the mode to serve in. See router.watch."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def pools(self) -> Sequence[PoolProgress]: ...

    @property
    def serving(self) -> ServingMode: ...

    def start(self) -> None: ...

    async def stop(self) -> None: ...


OnWorkers = Callable[[Sequence[WorkerInfo], Mode], None]


def _forecast(pool: StepPredictor | None) -> WorkerForecast:
    return WorkerForecast(pool=pool)


@dataclass(frozen=True, slots=True)
class Parts:
    """How streams, forecasts, prefix maps and watches are made; by default the live ones."""

    open_stream: Callable[[str, RouterConfig, StreamOwner], Stream] = WorkerStream
    new_forecast: Callable[[StepPredictor | None], WorkerForecast] = _forecast
    new_prefix_map: Callable[[int], PrefixMap] = PrefixMap
    watch: Callable[[RouterConfig, OnWorkers], Watch] = ClusterWatch


LIVE_PARTS = Parts()
