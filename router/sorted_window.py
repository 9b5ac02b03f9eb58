"""The last numbers of a series, in their order of size at any time."""

from bisect import bisect_left, insort
from collections import deque


class SortedWindow:
    """At most `size` of the last numbers; a quantile costs no sorting."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._by_age: deque[float] = deque()
        self._by_size: list[float] = []

    def __len__(self) -> int:
        return len(self._by_size)

    def add(self, value: float) -> None:
        if len(self._by_age) == self._size:
            del self._by_size[bisect_left(self._by_size, self._by_age.popleft())]
        self._by_age.append(value)
        insort(self._by_size, value)

    def values(self) -> tuple[float, ...]:
        """The smallest first."""
        return tuple(self._by_size)

    def at_share(self, share: float) -> float:
        """The number below which that share of them is. Raises IndexError while there are none."""
        return self._by_size[int(share * len(self._by_size))]

    def quantile(self, share: float) -> float:
        """The same, interpolated between neighbours. Raises IndexError while there are none."""
        place = share * (len(self._by_size) - 1)
        low = int(place)
        high = min(low + 1, len(self._by_size) - 1)
        return self._by_size[low] + (self._by_size[high] - self._by_size[low]) * (place - low)
