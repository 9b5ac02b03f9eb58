"""When each stage of one request happened."""

from runtime.clock import Clock


class Timeline:
    """Stamps of one request's stages, in seconds of the process's clock; each is set once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stamps_s: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        self._stamps_s.setdefault(stage, self._clock.now())

    def between(self, start: str, end: str) -> float | None:
        """Seconds from one stage to another, None while either has not happened."""
        if start in self._stamps_s and end in self._stamps_s:
            return self._stamps_s[end] - self._stamps_s[start]
        return None
