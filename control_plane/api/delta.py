"""What differs between two status views: what the events tell once a second."""

from msgspec.structs import replace

from control_plane.api.shapes import FlipEvent, ProcessView, StatusDelta, StatusView, WorkerView


def status_delta(before: StatusView | None, after: StatusView) -> StatusDelta:
    """All of it where there is no view before. Ages and uptimes alone are no difference."""
    if before is None:
        before = replace(after, workers=[], pairs=[], groups=[], processes=[])
    known = {worker.worker_id: worker for worker in before.workers}
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
        pairs=after.pairs if after.pairs != before.pairs else None,
        groups=after.groups if after.groups != before.groups else None,
        processes=after.processes if _timeless(after) != _timeless(before) else None,
        notes=after.notes,
    )


def flips_between(before: StatusView | None, after: StatusView) -> list[FlipEvent]:
    """Workers of the same process that have another role."""
    workers = before.workers if before else []
    known = {(worker.worker_id, worker.epoch): worker for worker in workers}
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
    return replace(worker, beat_age_s=0.0)


def _timeless(view: StatusView) -> list[ProcessView]:
    return [replace(process, uptime_s=0.0) for process in view.processes]
