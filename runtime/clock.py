"""Time as an argument: the one module that reads the machine's clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since an arbitrary start; only differences mean anything."""

    def now(self) -> float: ...


class SystemClock:
    """The machine's monotonic clock, equal in all processes of one host."""

    def now(self) -> float:
        return time.monotonic()


class VirtualClock:
    """A clock for tests and simulation that moves only when told."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds


def wall_time_s() -> float:
    """Seconds since 1970, for people and for the `created` field; never for durations."""
    return time.time()


def sleep(seconds: float) -> None:
    """Blocks this thread; for engines that only pretend to compute."""
    time.sleep(seconds)
