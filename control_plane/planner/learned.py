"""What was learned of the pools, as the next planner goes on from it."""

import math
from dataclasses import dataclass

from control_plane.planner.types import Objectives
from wire.cluster import Mode
from wire.messages import Role

MOST_ALLOWED = 1.6  # of what the model allows a pool


@dataclass(frozen=True, slots=True)
class LearnedPool:
    """allowed: the pressure by the plain model that a pool may have. ceiling: how far that may go.
    share: of the last ten minutes' requests, those that missed. missed_at_s: of the last step back,
    in seconds since 1970; 0: there was none.

    Raises ValueError for what nobody can have learned.
    """

    allowed: float = 1.0
    ceiling: float = MOST_ALLOWED
    share: float = 0.0
    missed_at_s: float = 0.0

    def __post_init__(self) -> None:
        limits = (("allowed", 1.0, MOST_ALLOWED), ("ceiling", 1.0, MOST_ALLOWED))
        for name, lowest, highest in (*limits, ("share", 0.0, 1.0), ("missed_at_s", 0.0, math.inf)):
            value = getattr(self, name)
            if not (lowest <= value <= highest and math.isfinite(value)):
                raise ValueError(f"{name}: {value} is not within {lowest} .. {highest}")


@dataclass(frozen=True, slots=True)
class Learned:
    """Of both pools; it holds for one mode and one set of objectives."""

    mode: Mode
    objectives: Objectives
    prefill: LearnedPool = LearnedPool()
    decode: LearnedPool = LearnedPool()

    def of(self, role: Role) -> LearnedPool:
        return self.prefill if role is Role.PREFILL else self.decode
