"""The control plane's answers: workers register and beat, gateways watch, operators ask."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final

from control_plane.registry import Registry
from runtime.clock import Clock
from runtime.log import get_logger
from runtime.metrics import Metrics
from wire.cluster import ClusterSnapshot, ClusterStatus, ProcessStatus, WorkerBeat, WorkerInfo
from wire.messages import Role

ACK: Final = "ack"
DRAIN: Final = "drain"
EXPIRY_PERIOD_S = 0.25
_PAUSE_S = 1.0  # a gap between two checks that says that this process itself stood still

_log = get_logger("control_plane")


class ControlPlane:
    """A wire.rpc.ControlService over one registry.

    processes: gives the processes that an actuator in this process keeps.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        *,
        settle_s: float = 0.0,
        processes: Callable[[], tuple[ProcessStatus, ...]] = tuple,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._metrics = metrics
        self._processes = processes
        self._settled_at_s = clock.now() + settle_s

    async def register(self, beats: AsyncIterator[WorkerBeat]) -> AsyncIterator[str]:
        """Answers each beat with "ack", or with "drain" when a newer process has the worker_id.

        The worker's own end of the stream is its goodbye: it is acknowledged and removed at once.

        After a stream that breaks, it has until its beats expire to come back on another one.
        """
        last: WorkerInfo | None = None
        async for beat in beats:
            last = beat.info
            yield self._apply(beat)
        yield ACK  # fails, and ends this call here, where the stream ended because it broke
        if last is not None and self._registry.remove(last.worker_id, last.epoch):
            _log.info("worker left", worker=last.worker_id, epoch=last.epoch)
            self._count_workers()

    async def watch(self, client_id: str) -> AsyncIterator[ClusterSnapshot]:
        """The cluster as it is, then again at every change, until the watcher hangs up."""
        await asyncio.sleep(max(0.0, self._settled_at_s - self._clock.now()))
        snapshot = self._registry.snapshot
        while True:
            yield snapshot
            snapshot = await self._registry.after(snapshot.version)

    async def status(self) -> ClusterStatus:
        version = self._registry.snapshot.version
        return ClusterStatus(version, self._registry.status(), self._processes())

    def process_died(self, worker_id: str, pid: int) -> None:
        """An actuator saw the process end: its worker leaves before its beats expire."""
        if self._registry.remove_process(worker_id, pid):
            _log.info("worker left", worker=worker_id, pid=pid, reason="its process ended")
            self._count_workers()

    async def watch_expiry(self) -> None:
        """Drops silent workers, until cancelled."""
        checked_at_s = self._clock.now()
        while True:
            await asyncio.sleep(EXPIRY_PERIOD_S)
            gap_s = self._clock.now() - checked_at_s
            checked_at_s += gap_s
            if gap_s > _PAUSE_S:
                self._registry.excuse(gap_s)
            self._expire()

    def _apply(self, beat: WorkerBeat) -> str:
        self._metrics.counter("baton_control_beats_total").inc()
        version = self._registry.snapshot.version
        info = beat.info
        if not self._registry.beat(beat):
            _log.warning("beat refused", worker=info.worker_id, epoch=info.epoch)
            return DRAIN
        if self._registry.snapshot.version != version:
            _log.info("worker registered", worker=info.worker_id, role=info.role, at=info.address)
            self._count_workers()
        return ACK

    def _expire(self) -> None:
        expired = self._registry.expire()
        for info in expired:
            self._metrics.counter("baton_control_expired_total").inc()
            _log.warning("worker lost", worker=info.worker_id, reason="its beats stopped")
        if expired:
            self._count_workers()

    def _count_workers(self) -> None:
        counts = Counter(worker.role for worker in self._registry.snapshot.workers)
        for role in Role:
            self._metrics.gauge("baton_control_workers", role=role.value).set(counts[role])
