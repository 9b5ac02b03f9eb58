"""What pools have shown to carry beyond the model: the factor by which their demands shrink.

The model sizes each pool alone, with margins for what it does not know; a router that bends lets
prefill workers' free memory take answers and decode workers' free time prompts. How much that is
depends on the traffic and the hardware, so it is learned: a pool that has kept its objective under
a load may be loaded a little more, and one that has missed is not loaded like that again soon.
"""

import math
from collections import deque
from dataclasses import dataclass, field, replace

from control_plane.planner.needs import Needs
from control_plane.planner.types import Objectives, Observation
from wire.cluster import Mode
from wire.messages import Role

_MOST = 1.6  # of what the model allows a pool
_STEP = 1.08  # below the dead band: steady load removes nobody by it
_SHORT_S, _LONG_S = 60.0, 600.0
_LEAST_REQUESTS = 30
_SPENT = 2 / 3  # of what may miss, up to which more is tried
_SIGMAS = 2.0
_RETRY_STEPS = 10  # after a miss, until more is tried than what missed


@dataclass(frozen=True, slots=True)
class Kept:
    """Of the last minute: requests, and those that missed the pool's objective or were refused."""

    num_requests: float
    num_late: float


def kept(seen: Observation, role: Role) -> Kept:
    """Whose fault a refusal is nobody knows: it counts for both pools."""
    figures, refused = seen.figures(role), seen.num_refused
    if figures.attainment is None:
        return Kept(refused, refused)
    late = figures.num_answers * (1 - figures.attainment)
    return Kept(figures.num_answers + refused, late + refused)


@dataclass(slots=True)
class Headroom:
    """One pool's. allowed: the pressure by the plain model that it may have, at least 1. step_s:
    between two steps, up or down.

    What may miss is a budget of the long run. It goes on while the last ten minutes have spent less
    than two thirds of it, and backs off where these have spent all of it and the last minute
    more than chance explains (Google's SRE workbook, chapter 5: several windows, burn rates).
    """

    step_s: float = 60.0
    allowed: float = 1.0
    _ceiling: float = _MOST
    _missed_at_s: float = -math.inf
    _pressures: "deque[tuple[float, float]]" = field(default_factory=deque)
    _share: float = 0.0  # of the last ten minutes' requests, those that missed
    _at_s: float = -math.inf
    _begun_at_s: float = math.inf
    _stepped_at_s: float = -math.inf

    def learn(self, at_s: float, pressure: float, kept: Kept, attainment: float) -> None:
        """pressure: of the pool as it is, by the plain model. attainment: what is aimed at."""
        self._begun_at_s = min(self._begun_at_s, at_s)
        self._pressures.append((at_s, pressure))
        while at_s - self._pressures[0][0] > _SHORT_S:
            self._pressures.popleft()
        if kept.num_requests < _LEAST_REQUESTS:
            return
        budget = 1 - attainment
        weight = min(1.0, max(0.0, at_s - self._at_s) / _LONG_S)
        self._share += weight * (kept.num_late / kept.num_requests - self._share)
        self._at_s = at_s
        expected = budget * kept.num_requests
        carried = sum(one for _, one in self._pressures) / len(self._pressures)
        if self._share > budget and kept.num_late > expected + _SIGMAS * math.sqrt(expected):
            self._back_off(at_s)
        elif self._share <= _SPENT * budget and kept.num_late <= expected:
            self._go_on(at_s, carried)

    def _go_on(self, at_s: float, carried: float) -> None:
        """One step at a time: a surge may miss later than it comes."""
        if at_s - self._missed_at_s > _RETRY_STEPS * self.step_s:
            self._ceiling = _MOST
        is_due = at_s - max(self._begun_at_s, self._stepped_at_s) >= self.step_s
        if is_due and math.isfinite(carried) and carried > self.allowed / _STEP:
            self.allowed = min(self._ceiling, _STEP * min(carried, self.allowed))
            self._stepped_at_s = at_s

    def _back_off(self, at_s: float) -> None:
        """One step at a time, as long as it goes on."""
        if at_s - self._missed_at_s > self.step_s:
            self.allowed = self._ceiling = max(1.0, self.allowed / _STEP)
            self._missed_at_s = at_s


class Headrooms:
    """Both pools'. What was learned holds for one mode and one set of objectives."""

    def __init__(self) -> None:
        self._learned_for: tuple[Mode, Objectives] | None = None
        self._pools = {role: Headroom() for role in Role}

    def eased(
        self, seen: Observation, found: Needs, mode: Mode, objectives: Objectives, step_s: float
    ) -> Needs:
        """Needs as far as the pools have not shown to carry more; learns from the observation."""
        if self._learned_for != (mode, objectives):
            self._learned_for = mode, objectives
            self._pools = {role: Headroom(step_s) for role in Role}
        for role, pool in self._pools.items():
            pressure = replace(found.of(role), observed=0.0).pressure()
            pool.learn(seen.at_s, pressure, kept(seen, role), objectives.attainment)
        return found.eased(*(1 / pool.allowed for pool in self._pools.values()))

    def inputs(self) -> tuple[tuple[str, float], ...]:
        """What a decision tells of it."""
        return tuple((f"allowed_{role.value}", pool.allowed) for role, pool in self._pools.items())
