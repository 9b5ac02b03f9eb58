"""How often workers beat, and when: rarer the more of them there are, and many at a time, so that
hearing them stays cheap."""

import math
import zlib
from dataclasses import dataclass

BEAT_TIMEOUT_S = 5.0
_LEAST_S = 1.0
_MOST_S = 13.5  # the planner holds on figures older than `stale_s`, 15 s
_SLOT_S = 0.5  # what one wake-up costs is shared by the beats of a slot


@dataclass(frozen=True, slots=True)
class Pace:
    """beats_per_s: of all workers together, a twentieth of a core. timeout_s: how long a worker
    that beats once a second may be silent."""

    beats_per_s: float = 150.0
    timeout_s: float = BEAT_TIMEOUT_S

    def interval_s(self, num_workers: int) -> float:
        """What each waits between two beats: whole slots above the least."""
        num_slots = math.ceil(num_workers / self.beats_per_s / _SLOT_S)
        return min(_MOST_S, max(_LEAST_S, num_slots * _SLOT_S))

    def silence_s(self, num_workers: int) -> float:
        """After which a worker that was told so is gone: two beats missed."""
        return self.timeout_s + 2 * (self.interval_s(num_workers) - _LEAST_S)

    def told_s(self, num_workers: int, worker_id: str, now_s: float) -> float:
        """As an order carries it, what this worker is to wait: until its slot comes round, or 0
        for the second that workers wait anyway. At least half a slot, at most as much above the
        interval."""
        interval_s = self.interval_s(num_workers)
        if interval_s <= _LEAST_S:
            return 0.0
        own_s = _SLOT_S * (zlib.crc32(worker_id.encode()) % round(interval_s / _SLOT_S))
        earliest_s = now_s + _SLOT_S / 2
        return own_s + interval_s * math.ceil((earliest_s - own_s) / interval_s) - now_s
