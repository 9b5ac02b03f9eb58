"""Growth of counters over the last seconds, across restarts of the processes that count."""

import math
from collections import deque
from collections.abc import Callable, Mapping

Counts = Mapping[str, float]
# Some ten independent comparisons a tick, 720 ticks an hour: at 3 sigmas chance
# alone finds a change every few minutes, at 5 hardly once in a hundred hours.
_SIGMAS = 5.0


class CounterWindow:
    """Sums of many sources' counters, remembered for max_s. All times from one clock.

    A source that counts less than before has restarted: what it has now, it counted since. One
    that is gone contributes nothing more.
    """

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._last: dict[str, Counts] = {}  # by source
        self._sums: dict[str, float] = {}
        self._history: deque[tuple[float, dict[str, float]]] = deque()

    def add(self, at_s: float, by_source: Mapping[str, Counts]) -> None:
        """The counters as they stand. A new source's first counts are no growth."""
        for source, counts in by_source.items():
            before = self._last.get(source)
            if before is not None:
                self._grow(before, counts)
            self._last[source] = counts
        if self._history and at_s <= self._history[-1][0]:
            self._history.clear()
        self._history.append((at_s, dict(self._sums)))
        while at_s - self._history[0][0] > self._max_s:
            self._history.popleft()

    def growth(self, least_s: float) -> tuple[float, Counts]:
        """The shortest stretch of at least least_s, or all.

        Gives its seconds (0 before the second reading) and each counter's growth in it.
        """
        if len(self._history) < 2:
            return 0.0, {}
        last = len(self._history) - 1
        start = self._since(least_s)
        return self._history[last][0] - self._history[start][0], self._between(start, last)

    def steady(
        self, name: str, variance: Callable[[Counts], float], least_s: float
    ) -> tuple[float, Counts]:
        """The longest stretch of at least least_s in which the rate of `name` did not change.

        variance: of the growth of `name` in a stretch, from that stretch's growth of all. A change
        is a difference between a stretch's newer and older part that chance does not explain.
        Gives what `growth` gives.
        """
        if len(self._history) < 2:
            return 0.0, {}
        now_s = self._history[-1][0]
        last = len(self._history) - 1
        newest = self._since(least_s)
        start = newest
        while start > 0 and not any(
            self._differ(name, variance, start - 1, middle)
            for middle in {newest, (start - 1 + last) // 2} - {start - 1}
        ):
            start -= 1
        return now_s - self._history[start][0], self._between(start, last)

    def _since(self, least_s: float) -> int:
        """The index of the newest reading that is so old; the oldest where none is."""
        now_s = self._history[-1][0]
        ages = range(len(self._history) - 2, 0, -1)
        return next((i for i in ages if now_s - self._history[i][0] >= least_s), 0)

    def _differ(
        self, name: str, variance: Callable[[Counts], float], start: int, middle: int
    ) -> bool:
        """The variance is that of both parts by themselves, or as parts of one stretch where that
        is more: a part in which nothing came would have none."""
        last = len(self._history) - 1
        rates, apart, inverse_s = [], 0.0, 0.0
        for begin, end in ((start, middle), (middle, last)):
            grown = self._between(begin, end)
            seconds = self._history[end][0] - self._history[begin][0]
            rates.append(grown.get(name, 0.0) / seconds)
            apart += variance(grown) / seconds**2
            inverse_s += 1 / seconds
        whole_s = self._history[last][0] - self._history[start][0]
        together = variance(self._between(start, last)) / whole_s * inverse_s
        return abs(rates[0] - rates[1]) > _SIGMAS * math.sqrt(max(apart, together))

    def _between(self, begin: int, end: int) -> Counts:
        before, after = self._history[begin][1], self._history[end][1]
        return {key: after[key] - before.get(key, 0.0) for key in after}

    def _grow(self, before: Counts, counts: Counts) -> None:
        has_restarted = any(value < before.get(name, 0.0) for name, value in counts.items())
        for name, value in counts.items():
            added = value if has_restarted else value - before.get(name, 0.0)
            self._sums[name] = self._sums.get(name, 0.0) + added


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Of a histogram by its cumulative counts at each upper bound, linear within a bucket.

    None where nothing was counted; the last finite bound where the answer lies beyond it, as
    Prometheus' histogram_quantile has it.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    wanted, low, below = share * total, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            if bound == float("inf"):
                return low
            inside = buckets[bound] - below
            return low + (bound - low) * (wanted - below) / inside if inside else bound
        low, below = bound, buckets[bound]
    return low
