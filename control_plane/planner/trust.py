"""Whether an observation may be acted on: fresh figures, and a clock that goes forward."""

import math

from control_plane.planner.types import Observation

_MAX_GAP_S = 120.0
_MAX_WALL_JUMP_S = 120.0


class Trust:
    """Looks at one observation after the other."""

    def __init__(self, stale_s: float) -> None:
        self._stale_s = stale_s
        self._at_s = -math.inf
        self._wall_s = math.nan

    def problem(self, seen: Observation) -> str:
        """Why nothing is to be done on these figures, empty if they are good."""
        clock = self._clock_problem(seen)
        self._at_s, self._wall_s = seen.at_s, seen.wall_s
        return clock or self._age_problem(seen)

    def _clock_problem(self, seen: Observation) -> str:
        passed_s = seen.at_s - self._at_s
        if self._at_s == -math.inf:
            return ""
        if passed_s < 0:
            return f"the clock went back by {-passed_s:.1f} s"
        if passed_s > _MAX_GAP_S:
            return f"no tick for {passed_s:.0f} s: figures of before are not compared"
        wall_jump_s = seen.wall_s - self._wall_s - passed_s
        if abs(wall_jump_s) > _MAX_WALL_JUMP_S:
            return f"the wall clock jumped by {wall_jump_s:.0f} s: schedules wait one tick"
        return ""

    def _age_problem(self, seen: Observation) -> str:
        if seen.traffic is None:
            return "no gateway's figures could be had"
        if not seen.traffic.age_s <= self._stale_s:
            return f"the gateways' figures are {seen.traffic.age_s:.0f} s old"
        stale = [w.worker_id for w in seen.workers if not w.age_s <= self._stale_s]
        if len(stale) * 2 > len(seen.workers):
            return f"{len(stale)} of {len(seen.workers)} workers' figures are stale"
        return ""
