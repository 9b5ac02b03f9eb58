"""When to ask a source for a sign of life, and for how long it has given none. Pure."""


class Pulse:
    """Of one link. Asking renews the leases; only what is asked and unanswered is silence."""

    def __init__(self, heartbeat_s: float) -> None:
        self._heartbeat_s = heartbeat_s
        self._asked_s = 0.0
        self._waiting_since_s: float | None = None

    def begin(self, now_s: float) -> None:
        """Nothing was under way and something is: the first beat is due a period from here."""
        self._asked_s = now_s

    def ask(self, now_s: float) -> None:
        """Something was sent that the source has to answer."""
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s

    def heard(self) -> None:
        self._waiting_since_s = None

    def is_due(self, now_s: float) -> bool:
        """Whether to beat; counts as asked if so."""
        if now_s - self._asked_s < self._heartbeat_s:
            return False
        self._asked_s = now_s
        self.ask(now_s)
        return True

    def next_s(self, now_s: float) -> float:
        """Seconds until the next beat."""
        return self._asked_s + self._heartbeat_s - now_s

    def silence_s(self, now_s: float) -> float:
        return 0.0 if self._waiting_since_s is None else now_s - self._waiting_since_s
