"""One step of a worker, or a run of decode steps that are one event."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from simulate.chunk import Chunk
from simulate.step_log import StepLog, steps_begun, stretch_end_s


@dataclass(slots=True)
class Stretch:
    """The first step takes base_s, each next one slope_s more. chunks: of a single step."""

    start_s: float
    base_s: float
    slope_s: float
    count: int
    chunks: list[Chunk]

    def end_s(self, count: int) -> float:
        """When the first `count` steps have ended."""
        return stretch_end_s(self.start_s, self.base_s, self.slope_s, count)

    def taken_s(self, count: int) -> float:
        return stretch_end_s(0.0, self.base_s, self.slope_s, count)

    def num_begun(self, now_s: float) -> int:
        return steps_begun(self.start_s, self.base_s, self.slope_s, now_s)

    def num_done(self, now_s: float) -> int:
        """Steps that have ended; the end of the last one is an event of its own."""
        return 0 if self.count == 1 else min(self.num_begun(now_s), self.count) - 1

    def num_layers_done(self, now_s: float, done: int, num_layers: int) -> int:
        """Of the step behind `done` ones."""
        step_s = self.base_s + self.slope_s * done
        share = (now_s - self.end_s(done)) / step_s if step_s > 0 else 0.0
        return max(0, min(num_layers - 1, int(share * num_layers)))

    def split(self, done: int) -> "Stretch":
        """Keeps the first `done` steps, and gives the rest."""
        base_s = self.base_s + self.slope_s * done
        rest = Stretch(self.end_s(done), base_s, self.slope_s, self.count - done, [])
        self.count = done
        return rest

    def delay(self, seconds: float) -> None:
        """The first step takes longer, and is the last."""
        self.count = 1
        self.base_s += seconds

    def record(self, steps: StepLog) -> None:
        steps.append(self.start_s, self.base_s, self.slope_s, self.count)


@dataclass(slots=True)
class UnevenStretch:
    """The first `count` of the steps that end when `ends_s` says. base_s, slope_s: as expected."""

    start_s: float
    base_s: float
    slope_s: float
    ends_s: Sequence[float]
    count: int
    chunks: list[Chunk]

    @property
    def expected_s(self) -> float:
        """What all of them would take without scatter."""
        return stretch_end_s(0.0, self.base_s, self.slope_s, self.count)

    def end_s(self, count: int) -> float:
        """When the first `count` steps have ended."""
        return self.ends_s[count - 1] if count else self.start_s

    def taken_s(self, count: int) -> float:
        return self.end_s(count) - self.start_s

    def num_begun(self, now_s: float) -> int:
        return bisect_right(self.ends_s, now_s) + 1

    def num_done(self, now_s: float) -> int:
        """Steps that have ended; the end of the last one is an event of its own."""
        return 0 if self.count == 1 else min(self.num_begun(now_s), self.count) - 1

    def num_layers_done(self, now_s: float, done: int, num_layers: int) -> int:
        """Of the step behind `done` ones."""
        begin_s = self.end_s(done)
        step_s = self.end_s(done + 1) - begin_s
        share = (now_s - begin_s) / step_s if step_s > 0 else 0.0
        return max(0, min(num_layers - 1, int(share * num_layers)))

    def split(self, done: int) -> "UnevenStretch":
        """Keeps the first `done` steps, and gives the rest."""
        base_s, left = self.base_s + self.slope_s * done, self.count - done
        rest = UnevenStretch(self.end_s(done), base_s, self.slope_s, self.ends_s[done:], left, [])
        self.count = done
        return rest

    def delay(self, seconds: float) -> None:
        """The first step takes longer, and is the last."""
        self.count = 1
        self.ends_s = [self.ends_s[0] + seconds]

    def record(self, steps: StepLog) -> None:
        steps.extend(self.ends_s[: self.count])


Run = Stretch | UnevenStretch
