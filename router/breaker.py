"""Takes a worker out of placement that keeps failing its legs."""

from collections import deque


class CircuitBreaker:
    """One for all workers, by (worker_id, epoch). Times are seconds of the router's clock.

    CLOSED --max_failures within window_s--> OPEN --open_s--> HALF_OPEN --a failure--> OPEN
                                                              HALF_OPEN --window_s--> CLOSED
    """

    def __init__(self, max_failures: int = 5, window_s: float = 30.0, open_s: float = 30.0) -> None:
        self._max_failures = max_failures
        self._window_s = window_s
        self._open_s = open_s
        self._failures: dict[tuple[str, int], deque[float]] = {}
        self._open_until_s: dict[tuple[str, int], float] = {}

    def failed(self, worker_id: str, epoch: int, now_s: float) -> None:
        """A leg of that worker process failed by the worker's fault."""
        self._forget_closed(now_s)
        key = (worker_id, epoch)
        failures = self._failures.setdefault(key, deque(maxlen=self._max_failures))
        while failures and now_s - failures[0] > self._window_s:
            failures.popleft()
        failures.append(now_s)
        until_s = self._open_until_s.get(key)
        is_half_open = until_s is not None and until_s <= now_s < until_s + self._window_s
        if len(failures) == self._max_failures or is_half_open:
            self._open_until_s[key] = now_s + self._open_s
            failures.clear()

    def open_workers(self, now_s: float) -> frozenset[tuple[str, int]]:
        """Who gets no new legs."""
        if not self._open_until_s:
            return frozenset()
        return frozenset(key for key, until_s in self._open_until_s.items() if now_s < until_s)

    def _forget_closed(self, now_s: float) -> None:
        for key, until_s in list(self._open_until_s.items()):
            if now_s >= until_s + self._window_s:
                del self._open_until_s[key]
                self._failures.pop(key, None)
