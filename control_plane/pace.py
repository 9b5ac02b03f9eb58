"""How often workers beat: rarer the more of them there are, so that hearing them stays cheap."""

from dataclasses import dataclass

BEAT_TIMEOUT_S = 5.0
_LEAST_S = 1.0
_MOST_S = 13.5  # the planner holds on figures older than `stale_s`, 15 s


@dataclass(frozen=True, slots=True)
class Pace:
    """beats_per_s: of all workers together, a twentieth of a core. timeout_s: how long a worker
    that beats once a second may be silent."""

    beats_per_s: float = 150.0
    timeout_s: float = BEAT_TIMEOUT_S

    def interval_s(self, num_workers: int) -> float:
        """What each waits between two beats."""
        return min(_MOST_S, max(_LEAST_S, num_workers / self.beats_per_s))

    def silence_s(self, num_workers: int) -> float:
        """After which a worker that was told so is gone: two beats missed."""
        return self.timeout_s + 2 * (self.interval_s(num_workers) - _LEAST_S)

    def told_s(self, num_workers: int) -> float:
        """The interval as an order carries it: 0 for the one that workers have anyway."""
        interval_s = self.interval_s(num_workers)
        return interval_s if interval_s > _LEAST_S else 0.0
