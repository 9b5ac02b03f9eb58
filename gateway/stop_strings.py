"""Finds stop strings in text that arrives in pieces, and holds back what may become one."""

from collections.abc import Sequence


class StopMatcher:
    """Knuth-Morris-Pratt over all stop strings at once: the stop that is complete first wins.

    The text let through never contains a stop string nor the beginning of one that the next piece
    could complete, and it does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """stops: non-empty strings."""
        self._patterns = [_Pattern(stop) for stop in stops]
        self._held = ""
        self.found: str | None = None  # the stop string that ended the text

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that is safe to send, and whether a stop string ended it."""
        text = self._held + piece
        for index in range(len(self._held), len(text)):
            lengths = [pattern.advance(text[index]) for pattern in self._patterns]
            longest_stop = max(lengths, default=0)
            if longest_stop:
                self._held = ""
                self.found = text[index + 1 - longest_stop : index + 1]
                return text[: index + 1 - longest_stop], True
        num_held = max((pattern.matched for pattern in self._patterns), default=0)
        safe = len(text) - num_held
        self._held = text[safe:]
        return text[:safe], False

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        held, self._held = self._held, ""
        return held


class _Pattern:
    """One stop string; `matched` characters of it are the end of the text so far."""

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._fallbacks = _fallbacks(stop)
        self.matched = 0

    def advance(self, character: str) -> int:
        """Takes one more character; gives the stop's length when it is complete, else 0."""
        while self.matched and self._stop[self.matched] != character:
            self.matched = self._fallbacks[self.matched - 1]
        if self._stop[self.matched] == character:
            self.matched += 1
        return len(self._stop) if self.matched == len(self._stop) else 0


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of `stop`, the length of its longest proper prefix that also ends it."""
    table = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[index] != stop[length]:
            length = table[length - 1]
        if stop[index] == stop[length]:
            length += 1
        table[index] = length
    return table
