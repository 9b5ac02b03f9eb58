"""How many tokens: `512`, `256-1024` (uniform), or `lognormal:512,0.5` (mean, deviation/mean)."""

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.errors import LoadtestError

_UNIFORM = re.compile(r"(\d+)(?:-(\d+))?")
_LOGNORMAL = re.compile(r"lognormal:(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class LengthSpec:
    """Token counts between low and high; where spread is set, lognormal around mean."""

    low: int
    high: int
    mean: float = 0.0
    spread: float = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """At least 1 each.  # [count]"""
        if self.spread == 0:
            return rng.integers(self.low, self.high + 1, count)
        sigma = math.sqrt(math.log1p(self.spread**2))
        drawn = rng.lognormal(math.log(self.mean) - sigma**2 / 2, sigma, count)
        return np.clip(np.rint(drawn).astype(np.int64), self.low, self.high)


def parse_lengths(text: str) -> LengthSpec:
    """Raises LoadtestError for what is none of the three forms."""
    text = text.strip()
    if match := _UNIFORM.fullmatch(text):
        low = int(match[1])
        high = int(match[2] or match[1])
        if not 1 <= low <= high:
            raise LoadtestError(f"{text!r}: lengths must be at least 1, the smaller one first")
        return LengthSpec(low, high)
    if match := _LOGNORMAL.fullmatch(text):
        mean, spread = float(match[1]), float(match[2])
        if mean < 1 or spread == 0:
            raise LoadtestError(f"{text!r}: the mean must be at least 1 and the spread positive")
        return LengthSpec(1, int(mean * 100), mean, spread)
    raise LoadtestError(f"{text!r} is not a length such as 512, 256-1024 or lognormal:512,0.5")
