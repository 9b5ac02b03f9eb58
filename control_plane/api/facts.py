"""The cluster at one moment, as the views are made of it: values only."""

from dataclasses import dataclass

from control_plane.actuators.actuator import PoolStatus
from control_plane.leadership import Term
from control_plane.overrides import Pin
from control_plane.planning import RecordedDecision, Stance
from wire.cluster import ProcessStatus, WorkerStatus
from wire.messages import Role

_SILENT_S = 2.5


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """at_s: seconds since 1970. decision: the newest, None before the first."""

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

    def of(self, role: Role) -> tuple[WorkerStatus, ...]:
        return tuple(worker for worker in self.workers if worker.info.role is role)

    def platform_of(self, role: Role) -> PoolStatus | None:
        return next((pool for pool in self.platform if pool.role is role), None)


def state_of(worker: WorkerStatus) -> str:
    """serving, flipping, draining or silent; silent workers have missed beats."""
    if worker.beat_age_s > _SILENT_S:
        return "silent"
    if worker.info.draining or worker.report.draining:
        return "draining"
    return "flipping" if worker.info.flipping or worker.report.flipping else "serving"
