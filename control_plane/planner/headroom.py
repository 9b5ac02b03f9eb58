"""What pools have shown to carry beyond the model: the factor by which their demands shrink.

The model sizes each pool alone, with margins for what it does not know; a router that bends lets
prefill workers' free memory take answers and decode workers' free time prompts. How much that is
depends on the traffic and the hardware, so it is learned: a pool that has kept its objective under
a load may be loaded a little more, and one that has missed is not loaded like that again soon.
"""

import math
from collections import deque
from dataclasses import dataclass, field, replace

from control_plane.planner.learned import MOST_ALLOWED, Learned, LearnedPool
from control_plane.planner.needs import Needs
from control_plane.planner.types import Objectives, Observation
from wire.cluster import Mode
from wire.messages import Role

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
    _ceiling: float = MOST_ALLOWED
    _missed_at_s: float = -math.inf
    _pressures: "deque[tuple[float, float]]" = field(default_factory=deque)
    _share: float = 0.0  # of the last ten minutes' requests, those that missed
    _at_s: float = -math.inf
    _begun_at_s: float = math.inf
    _stepped_at_s: float = -math.inf

    @classmethod
    def going_on(
        cls, step_s: float, learned: LearnedPool, at_s: float, wall_s: float
    ) -> "Headroom":
        """From what another planner has learned."""
        missed = learned.missed_at_s
        return cls(
            step_s,
            learned.allowed,
            learned.ceiling,
            at_s - max(0.0, wall_s - missed) if missed else -math.inf,
            _share=learned.share,
            _at_s=at_s,
        )

    def learned(self, at_s: float, wall_s: float) -> LearnedPool:
        """As it stands."""
        was_missed = math.isfinite(self._missed_at_s)
        missed_at_s = max(0.0, wall_s - (at_s - self._missed_at_s)) if was_missed else 0.0
        share = min(1.0, max(0.0, self._share))
        return LearnedPool(self.allowed, self._ceiling, share, missed_at_s)

    def learn(self, at_s: float, pressure: float, kept: Kept, attainment: float) -> bool:
        """pressure: of the pool as it is, by the plain model. attainment: what is aimed at.

        True for a step, up or down.
        """
        self._begun_at_s = min(self._begun_at_s, at_s)
        self._pressures.append((at_s, pressure))
        while at_s - self._pressures[0][0] > _SHORT_S:
            self._pressures.popleft()
        if kept.num_requests < _LEAST_REQUESTS:
            return False
        budget = 1 - attainment
        weight = min(1.0, max(0.0, at_s - self._at_s) / _LONG_S)
        self._share += weight * (kept.num_late / kept.num_requests - self._share)
        self._at_s = at_s
        expected = budget * kept.num_requests
        carried = sum(one for _, one in self._pressures) / len(self._pressures)
        if self._share > budget and kept.num_late > expected + _SIGMAS * math.sqrt(expected):
            return self._back_off(at_s)
        if self._share <= _SPENT * budget and kept.num_late <= expected:
            return self._go_on(at_s, carried)
        return False

    def _go_on(self, at_s: float, carried: float) -> bool:
        """One step at a time: a surge may miss later than it comes."""
        if at_s - self._missed_at_s > _RETRY_STEPS * self.step_s:
            self._ceiling = MOST_ALLOWED
        is_due = at_s - max(self._begun_at_s, self._stepped_at_s) >= self.step_s
        if not (is_due and math.isfinite(carried) and carried > self.allowed / _STEP):
            return False
        before = self.allowed
        self.allowed = min(self._ceiling, _STEP * min(carried, before))
        self._stepped_at_s = at_s
        return self.allowed != before

    def _back_off(self, at_s: float) -> bool:
        """One step at a time, as long as it goes on."""
        is_due = at_s - self._missed_at_s > self.step_s
        if is_due:
            self.allowed = self._ceiling = max(1.0, self.allowed / _STEP)
            self._missed_at_s = at_s
        return is_due


class Headrooms:
    """Both pools'. What was learned holds for one mode and one set of objectives.

    learned: as of the last step, whoever made it; None before the first one.
    """

    def __init__(self) -> None:
        self.learned: Learned | None = None
        self._learned_for: tuple[Mode, Objectives] | None = None
        self._is_told = False  # `learned` is another planner's, and not yet taken up
        self._pools = {role: Headroom() for role in Role}

    def go_on_from(self, learned: Learned | None) -> None:
        """From the next observation of the same mode and objectives on; None: from the model alone.
        What this one has told itself changes nothing."""
        if learned != self.learned:
            self.learned, self._is_told = learned, True

    def eased(
        self, seen: Observation, found: Needs, mode: Mode, objectives: Objectives, step_s: float
    ) -> Needs:
        """Needs as far as the pools have not shown to carry more; learns from the observation."""
        if self._is_told or self._learned_for != (mode, objectives):
            self._begin(seen, mode, objectives, step_s)
        steps = []
        for role, pool in self._pools.items():
            pressure = replace(found.of(role), observed=0.0).pressure()
            late = kept(seen, role)
            steps.append(pool.learn(seen.at_s, pressure, late, objectives.attainment))
        if any(steps):
            now = (pool.learned(seen.at_s, seen.wall_s) for pool in self._pools.values())
            self.learned = Learned(mode, objectives, *now)
        return found.eased(*(1 / pool.allowed for pool in self._pools.values()))

    def _begin(self, seen: Observation, mode: Mode, objectives: Objectives, step_s: float) -> None:
        self._learned_for, self._is_told = (mode, objectives), False
        self._pools = {role: Headroom(step_s) for role in Role}
        learned = self.learned
        if learned is not None and (learned.mode, learned.objectives) == self._learned_for:
            for role in Role:
                known = learned.of(role)
                self._pools[role] = Headroom.going_on(step_s, known, seen.at_s, seen.wall_s)

    def inputs(self) -> tuple[tuple[str, float], ...]:
        """What a decision tells of it."""
        return tuple((f"allowed_{role.value}", pool.allowed) for role, pool in self._pools.items())
