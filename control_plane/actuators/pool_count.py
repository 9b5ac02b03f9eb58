"""Counts what an actuator keeps, by role."""

from collections.abc import Mapping, Sequence

from control_plane.actuators.actuator import PoolStatus
from control_plane.actuators.process_spec import ProcessState
from wire.cluster import ProcessStatus
from wire.messages import Role


def pool_status(
    workers: Sequence[ProcessStatus], serving: Mapping[str, Role]
) -> tuple[PoolStatus, ...]:
    """Both roles' counts. serving: the live workers' roles by name, which a flip may have changed
    since the process was started."""
    return tuple(_count(role, workers, serving) for role in Role)


def _count(role: Role, workers: Sequence[ProcessStatus], serving: Mapping[str, Role]) -> PoolStatus:
    own = [worker for worker in workers if serving.get(worker.name, worker.kind) == role]
    kept = [worker for worker in own if worker.state != ProcessState.STOPPING]
    failed = [worker for worker in kept if worker.state == ProcessState.FAILED]
    running = sum(worker.name in serving for worker in kept)
    return PoolStatus(
        role=role,
        wanted=len(kept),
        running=running,
        starting=len(kept) - running - len(failed),
        failed=len(failed),
        detail="; ".join(f"{worker.name}: {worker.detail}" for worker in failed),
    )
