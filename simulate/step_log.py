"""When a worker's decode steps ended, kept as stretches of evenly changing steps."""

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

_TRIM_ABOVE = 4096


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
    """Appends stretches of steps; gives the end of every step from one number to another."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._stretches: list[tuple[float, float, float, int]] = []

    def append(self, first: int, start_s: float, base_s: float, slope_s: float, count: int) -> None:
        self._firsts.append(first)
        self._stretches.append((start_s, base_s, slope_s, count))

    def ends_s(self, first: int, last: int) -> npt.NDArray[np.float64]:
        """When the steps first .. last ended, both included.  # [last - first + 1]"""
        index = bisect_right(self._firsts, first) - 1
        parts = []
        while index < len(self._firsts) and self._firsts[index] <= last:
            begin = self._firsts[index]
            start_s, base_s, slope_s, count = self._stretches[index]
            low, high = max(first, begin) - begin + 1, min(last, begin + count - 1) - begin + 1
            j = np.arange(low, high + 1, dtype=np.float64)
            parts.append(start_s + j * base_s + slope_s * (j * (j - 1) / 2))
            index += 1
        return np.concatenate(parts) if parts else np.empty(0)

    def forget_before(self, first: int) -> None:
        """Steps before that number are not asked for again; does something now and then only."""
        if len(self._firsts) < _TRIM_ABOVE:
            return
        index = max(0, bisect_right(self._firsts, first) - 1)
        del self._firsts[:index], self._stretches[:index]
