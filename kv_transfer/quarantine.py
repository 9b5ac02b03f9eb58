"""Sources whose bytes were wrong too often, and for how long nothing is read from them. Pure."""

import threading
from collections import deque

from kv_transfer.handshake import Identity


class Quarantine:
    """One reader's record of its sources. Thread-safe; time comes in.

    trusted --limit strikes within window_s--> quarantined for window_s --> on probation
       ^                                            ^                         |
       |                                            +----- one strike --------+
       +------------------------ window_s without a strike -------------------+
    """

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._strikes: dict[Identity, deque[float]] = {}
        self._until_s: dict[Identity, float] = {}
        self._lock = threading.Lock()

    def strike(self, source: Identity, now_s: float) -> bool:
        """Bytes from `source` were wrong; whether it is quarantined by this."""
        with self._lock:
            strikes = self._strikes.setdefault(source, deque(maxlen=self._limit))
            strikes.append(now_s)
            is_out = len(strikes) == self._limit and now_s - strikes[0] <= self._window_s
            until_s = self._until_s.get(source)
            if is_out or (until_s is not None and now_s <= until_s + self._window_s):
                self._until_s[source] = now_s + self._window_s
                return True
            return False

    def left_s(self, source: Identity, now_s: float) -> float:
        """Seconds until `source` may be read again; 0 where it may be."""
        with self._lock:
            return max(0.0, self._until_s.get(source, now_s) - now_s)
