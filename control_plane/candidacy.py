"""What one candidate of an election knows: who holds the lease, and until when that counts."""

from control_plane.leadership import Term
from runtime.clock import Clock


class Candidacy:
    """Of one process for one lease; it stops acting at 2/3 of the lease, before anybody may take
    it."""

    def __init__(self, identity: str, clock: Clock, lease_s: float, highest: int) -> None:
        """highest: no fencing number that the store can give is larger."""
        self.identity = identity
        self.holder = ""
        self.token = 0
        self.heard = 0  # the highest number that a worker has told
        self._clock = clock
        self._lease_s = lease_s
        self._highest = highest
        self._renewed_at_s = -float("inf")  # of this process's own term

    def term(self) -> Term:
        """As this process's own clock sees it."""
        age_s = self._clock.now() - self._renewed_at_s
        is_me = self.holder == self.identity and age_s < self._lease_s * 2 / 3
        other = "" if self.holder == self.identity else self.holder
        return Term(self.holder, is_me, self.token, age_s if is_me else 0.0, other)

    def sees(self, holder: str, token: int) -> None:
        """The store names this holder, which may be another process."""
        self.holder, self.token = holder, token

    def renewed(self, begun_s: float) -> None:
        """The store took this process's word, given at begun_s or later."""
        self._renewed_at_s = begun_s

    def hears(self, token: int) -> None:
        """A worker has heard of this number; one that cannot be is nobody's."""
        if token < self._highest:
            self.heard = max(self.heard, token)
