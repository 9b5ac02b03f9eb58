"""What `baton status` says of the cluster as a whole: pools, the planner, and what is wrong."""

from control_plane.api.shapes import PlannerView, PoolView, StatusView


def summary(view: StatusView) -> list[str]:
    """Lines for the terminal."""
    lines = [", ".join(_pool(pool) for pool in view.pools), _planner(view.planner)]
    if view.leader.backend != "none":
        me = " (this one)" if view.leader.is_me else ""
        lines.append(f"leader by {view.leader.backend}: {view.leader.holder or 'nobody'}{me}")
    return [*lines, *(f"note: {note}" for note in view.notes)]


def _pool(pool: PoolView) -> str:
    wanted = f" of {pool.desired}" if pool.desired != pool.actual else ""
    advice = f", {pool.recommended} recommended" if pool.recommended >= 0 else ""
    workers = "worker" if max(pool.actual, pool.desired) == 1 else "workers"
    return f"{pool.role}: {pool.actual}{wanted} {workers}{advice}"


def _planner(planner: PlannerView) -> str:
    words = [f"planner: {planner.mode}"]
    if planner.serving:
        words.append(planner.serving)
    if planner.mode_epoch:
        words.append(f"gateways follow {planner.following} (epoch {planner.mode_epoch})")
    if planner.paused:
        words.append(f"paused by {planner.paused_by}")
    if planner.pinned is not None:
        pin = planner.pinned
        words.append(f"pinned at {pin.prefill}P{pin.decode}D by {pin.who}")
    return ", ".join([*words, *planner.alarms])
