"""Which workers' records a leader has to write: new ones, changed ones, and those about to end."""

from control_plane.registry import Registry
from control_plane.state.store import Outgoing
from runtime.clock import Clock
from wire.cluster import WorkerBeat, WorkerInfo


class WorkerRecords:
    """Reports change with every beat and are not shared: a record carries the one of its time."""

    def __init__(self, registry: Registry, clock: Clock, ttl_s: float) -> None:
        self._registry = registry
        self._clock = clock
        self._renew_s = ttl_s / 3
        self._written: dict[str, tuple[WorkerInfo, float]] = {}

    def due(self) -> Outgoing:
        now_s = self._clock.now()
        workers = {status.info.worker_id: status for status in self._registry.status()}
        return Outgoing(
            workers=tuple(
                WorkerBeat(status.info, status.report)
                for worker_id, status in workers.items()
                if self._is_due(worker_id, status.info, now_s)
            ),
            gone=tuple(worker_id for worker_id in self._written if worker_id not in workers),
        )

    def written(self, outgoing: Outgoing) -> None:
        now_s = self._clock.now()
        for beat in outgoing.workers:
            self._written[beat.info.worker_id] = (beat.info, now_s)
        for worker_id in outgoing.gone:
            self._written.pop(worker_id, None)

    def forget(self) -> None:
        """The store has lost them all."""
        self._written.clear()

    def _is_due(self, worker_id: str, info: WorkerInfo, now_s: float) -> bool:
        known, at_s = self._written.get(worker_id, (None, 0.0))
        return known != info or now_s - at_s >= self._renew_s
