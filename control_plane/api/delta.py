"""What differs between two status views: what the events tell once a second."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from control_plane.api.shapes import FlipEvent, StatusDelta, StatusView, WorkerView

T = TypeVar("T")


def status_delta(before: StatusView | None, after: StatusView) -> StatusDelta:
    """All of it where there is no view before. Ages alone are no difference."""
    known = {worker.worker_id: worker for worker in before.workers} if before else {}
    here = {worker.worker_id for worker in after.workers}
    return StatusDelta(
        version=after.version,
        at_s=after.at_s,
        pools=after.pools,
        planner=after.planner,
        leader=after.leader,
        workers=[
            worker
            for worker in after.workers
            if (old := known.get(worker.worker_id)) is None or _ageless(old) != _ageless(worker)
        ],
        gone=[worker_id for worker_id in known if worker_id not in here],
        pairs=_if_changed(before and before.pairs, after.pairs),
        groups=_if_changed(before and before.groups, after.groups),
        processes=_if_changed(before and before.processes, after.processes),
        notes=after.notes,
    )


def flips_between(before: StatusView | None, after: StatusView) -> list[FlipEvent]:
    """Workers of the same process that have another role."""
    known = (
        {(worker.worker_id, worker.epoch): worker for worker in before.workers} if before else {}
    )
    return [
        FlipEvent(
            worker_id=worker.worker_id,
            from_role=old.role,
            to_role=worker.role,
            at_s=after.at_s,
        )
        for worker in after.workers
        if (old := known.get((worker.worker_id, worker.epoch))) and old.role != worker.role
    ]


def _ageless(worker: WorkerView) -> WorkerView:
    return msgspec.structs.replace(worker, beat_age_s=0.0)


def _if_changed(before: Sequence[T] | None, after: list[T]) -> list[T] | None:
    return after if before != after else None
