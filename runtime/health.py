"""What a platform's probes ask: does the event loop turn, and may this process be given work."""

import asyncio

from runtime.clock import Clock

_TURN_S = 0.5
STALL_S = 10.0


class Health:
    """Answers from any thread: an empty text is well, another says what is wrong.

    Liveness is the event loop alone: a process that waits for others is alive. Readiness is what
    `ready` said last, and begins with "starting".
    """

    def __init__(self, clock: Clock, stall_s: float = STALL_S) -> None:
        self._clock = clock
        self._stall_s = stall_s
        self._turned_at_s = clock.now()
        self._reason = "starting"

    async def turn(self) -> None:
        """Notes twice a second that the loop turns, until cancelled."""
        while True:
            self._turned_at_s = self._clock.now()
            await asyncio.sleep(_TURN_S)

    def ready(self, reason: str = "") -> None:
        """Says from now on why no work should come; empty: it may."""
        self._reason = reason

    def liveness(self) -> str:
        silent_s = self._clock.now() - self._turned_at_s
        if silent_s <= self._stall_s:
            return ""
        return f"the event loop has not turned for {silent_s:.0f} s"

    def readiness(self) -> str:
        return self.liveness() or self._reason
