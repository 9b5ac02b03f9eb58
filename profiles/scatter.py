"""By how much single steps miss the time that their profile expects."""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from random import Random

_MEAN_TOLERANCE = 1e-3


class ScatterError(ValueError):
    """Numbers that make no scatter; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Actual over expected step times, as equally likely factors in rising order, of mean 1.

    decode: of steps that only decode; prefill: of those that compute prompts; empty: exact steps.
    A worker has a level between 0 and 1, the place in these tables. The share `kept` of its steps
    are at its level, the others anywhere; the level changes after lasts_s seconds of expected
    steps in the mean. So factors have the table's distribution whatever `kept` is, and two of
    them correlate by kept^2 * exp(-distance / lasts_s).

    Raises ScatterError.
    """

    decode: tuple[float, ...] = ()
    prefill: tuple[float, ...] = ()
    kept: float = 0.0
    lasts_s: float = 0.0

    def __post_init__(self) -> None:
        for name, table in (("decode", self.decode), ("prefill", self.prefill)):
            if any(later < before for before, later in pairwise((0.0, *table))):
                raise ScatterError(f"scatter.{name}: factors are not below 0, and in rising order")
            mean = sum(table) / len(table) if table else 1.0
            if abs(mean - 1) > _MEAN_TOLERANCE:
                raise ScatterError(f"scatter.{name}: the mean is {mean:.4g}, it has to be 1")
        if not 0 <= self.kept <= 1:
            raise ScatterError(f"scatter.kept is {self.kept:g}, a share is 0 to 1")
        if self.lasts_s < 0 or (self.kept and not self.lasts_s):
            raise ScatterError(f"scatter.lasts_s is {self.lasts_s:g}, more than 0 is needed")

    @property
    def is_none(self) -> bool:
        return not (self.decode or self.prefill)


NO_SCATTER = Scatter()


class StepScatter:
    """One worker's draws. Its place is the number of expected seconds of the steps before; it may
    go back as far as `forget_before` was told, and finds the same levels there.
    """

    def __init__(self, scatter: Scatter, rng: Random) -> None:
        self._scatter = scatter
        self._rng = rng
        self._levels: deque[tuple[float, float]] = deque()  # where a level ends, the level

    def factor(self, at_s: float, is_prefill: bool) -> float:
        """Of the step that begins at that place."""
        scatter, rng = self._scatter, self._rng
        table = scatter.prefill if is_prefill else scatter.decode
        if not table:
            return 1.0
        is_at_level = rng.random() < scatter.kept
        rank = self._level(at_s) if is_at_level else rng.random()
        return table[int(rank * len(table))]

    def forget_before(self, at_s: float) -> None:
        """Nothing before that place will be asked for."""
        levels = self._levels
        while len(levels) > 1 and levels[0][0] <= at_s:
            levels.popleft()

    def _level(self, at_s: float) -> float:
        levels, rng = self._levels, self._rng
        if not levels or levels[-1][0] <= at_s:  # a level's age says nothing of what is left of it
            lasts_s = rng.expovariate(1 / self._scatter.lasts_s)
            levels.append((at_s + lasts_s, rng.random()))
        return next(level for end_s, level in levels if at_s < end_s)
