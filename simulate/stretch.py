"""One step of a worker, or a run of decode steps that are one event."""

from dataclasses import dataclass

from simulate.chunk import Chunk
from simulate.step_log import steps_begun, stretch_end_s


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
        return min(num_layers - 1, int(share * num_layers))

    def split(self, done: int) -> "Stretch":
        """Keeps the first `done` steps, and gives the rest."""
        base_s = self.base_s + self.slope_s * done
        rest = Stretch(self.end_s(done), base_s, self.slope_s, self.count - done, [])
        self.count = done
        return rest
