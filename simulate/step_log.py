"""When a worker's decode steps ended: stretches of evenly changing steps."""

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_TRIM_ABOVE = 4096
_MANY = 32  # steps from which numpy is faster than a loop


def stretch_end_s(start_s: float, base_s: float, slope_s: float, count: int) -> float:
    """The end of the count-th step, when the first takes base_s and each next slope_s more."""
    return start_s + count * base_s + slope_s * (count * (count - 1) / 2)


def steps_begun(start_s: float, base_s: float, slope_s: float, at_s: float) -> int:
    """The number of the step that runs at that time, counted from 1."""
    passed_s = max(0.0, at_s - start_s)
    half_s = base_s - slope_s / 2  # passed = half * n + slope / 2 * n^2, solved without cancelling
    root_s = (half_s * half_s + 2 * slope_s * passed_s) ** 0.5
    if half_s > 0:
        count = max(1, int(2 * passed_s / (half_s + root_s)))
    else:
        count = max(1, int((root_s - half_s) / slope_s))
    while stretch_end_s(start_s, base_s, slope_s, count) <= at_s:
        count += 1
    while count > 1 and stretch_end_s(start_s, base_s, slope_s, count - 1) > at_s:
        count -= 1
    return count


class StepLog:
    """Appends stretches of steps, numbered from 1; gives the ends of those still asked for.

    All sequences of a batch ask for the same steps, so each end is worked out once.
    """

    def __init__(self) -> None:
        self._ends_s = array("d")
        self._first = 1  # number of the first that is kept

    def __len__(self) -> int:
        return len(self._ends_s)

    @property
    def is_long(self) -> bool:
        """It is time to forget."""
        return len(self._ends_s) > _TRIM_ABOVE

    def append(self, start_s: float, base_s: float, slope_s: float, count: int) -> None:
        """As stretch_end_s has it."""
        if count < _MANY:
            for j in range(1, count + 1):
                self._ends_s.append(start_s + j * base_s + slope_s * (j * (j - 1) / 2))
        else:
            steps = np.arange(1, count + 1, dtype=np.float64)
            ends_s = start_s + steps * base_s + slope_s * (steps * (steps - 1) / 2)
            self._ends_s.frombytes(ends_s.tobytes())

    def extend(self, ends_s: Iterable[float]) -> None:
        self._ends_s.extend(ends_s)

    def ends_s(self, first: int, last: int) -> npt.NDArray[np.float64]:
        """When the steps first .. last ended, both included.  # [last - first + 1]"""
        if last < first:
            return np.empty(0)
        part = self._ends_s[first - self._first : last - self._first + 1]
        return np.frombuffer(part)

    def forget_before(self, first: int) -> None:
        """Steps before that number are not asked for again."""
        num_gone = max(0, first - self._first)
        del self._ends_s[:num_gone]
        self._first += num_gone
