"""Which workers' records a leader has to write: new ones, changed ones, and those about to end."""

from control_plane.registry import Registry
from control_plane.state.store import Outgoing
from runtime.clock import Clock
from wire.cluster import WorkerInfo


class WorkerRecords:
    """Reports change with every beat and are not shared: a record carries the one of its time."""

    def __init__(self, registry: Registry, clock: Clock, ttl_s: float) -> None:
        self._registry = registry
        self._clock = clock
        self._renew_s = ttl_s / 3
        self._written: dict[str, tuple[WorkerInfo, float]] = {}

    def due(self) -> Outgoing:
        now_s = self._clock.now()
        beats = {beat.info.worker_id: beat for beat in self._registry.beats()}
        return Outgoing(
            workers=tuple(
                beat
                for worker_id, beat in beats.items()
                if self._is_due(worker_id, beat.info, now_s)
            ),
            gone=tuple(worker_id for worker_id in self._written if worker_id not in beats),
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
        is_same = known is info or known == info
        return not is_same or now_s - at_s >= self._renew_s
