"""Virtual time: what happens next, in the order of its time, then of its making."""

import heapq
from collections.abc import Callable
from typing import Any


class EventLoop:
    """The simulation's clock and agenda. Calls at equal times run in the order they were made."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._num_made = 0
        self.num_events = 0

    def now(self) -> float:
        return self._now_s

    def at(self, at_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Calls at that time, which is not before now."""
        assert at_s >= self._now_s, f"{at_s} is in the past of {self._now_s}"
        self._num_made += 1
        heapq.heappush(self._agenda, (at_s, self._num_made, call, arguments))

    def after(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        self.at(self._now_s + delay_s, call, *arguments)

    def run(self, on_progress: Callable[[], None] | None = None, every: int = 20_000) -> None:
        """Until nothing is left to happen; on_progress is called every so many events."""
        agenda, pop = self._agenda, heapq.heappop
        while agenda:
            self._now_s, _, call, arguments = pop(agenda)
            call(*arguments)
            self.num_events += 1
            if on_progress is not None and self.num_events % every == 0:
                on_progress()
