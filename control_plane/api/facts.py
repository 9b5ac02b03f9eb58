"""The cluster at one moment, as the views are made of it: values only."""

from dataclasses import dataclass

from control_plane.actuators.actuator import PoolStatus
from control_plane.leadership import Term
from control_plane.overrides import Pin
from control_plane.planning import RecordedDecision, Stance
from wire.cluster import ProcessStatus, ServingMode, WorkerStatus
from wire.messages import Role

_MISSED_S = 1.5  # beyond the interval at which workers beat


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """at_s: seconds since 1970. decision: the newest, None before the first. beat_s: what workers
    wait between two beats. serving: the mode that gateways are told."""

    version: int
    at_s: float
    workers: tuple[WorkerStatus, ...]
    processes: tuple[ProcessStatus, ...]
    platform: tuple[PoolStatus, ...]
    stance: Stance
    paused_by: str
    pin: Pin | None
    decision: RecordedDecision | None
    term: Term
    election: str = "none"
    actuator: str = "none"
    state: str = "memory"
    notes: tuple[str, ...] = ()
    beat_s: float = 1.0
    serving: ServingMode = ServingMode()

    def of(self, role: Role) -> tuple[WorkerStatus, ...]:
        return tuple(worker for worker in self.workers if worker.info.role is role)

    def platform_of(self, role: Role) -> PoolStatus | None:
        return next((pool for pool in self.platform if pool.role is role), None)


def state_of(worker: WorkerStatus, beat_s: float) -> str:
    """serving, flipping, draining or silent: that one has missed a beat. beat_s: between two."""
    if worker.beat_age_s > beat_s + _MISSED_S:
        return "silent"
    if worker.info.draining or worker.report.draining:
        return "draining"
    return "flipping" if worker.info.flipping or worker.report.flipping else "serving"
