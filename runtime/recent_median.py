"""A figure that a hiccup of the machine says nothing of."""

from collections import deque
from statistics import median

_NUM_RECENT = 15


class RecentMedian:
    """Of the last measurements; 0 without any."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_NUM_RECENT)
        self.value = 0.0

    def add(self, measured: float) -> None:
        self._recent.append(measured)
        self.value = median(self._recent)
