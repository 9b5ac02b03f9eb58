"""Who may act for a cluster that several control planes serve: leases and fencing numbers."""

from dataclasses import dataclass
from typing import Protocol

from control_plane.actuators.actuator import ActuatorRefused


class NotLeader(ActuatorRefused):
    """Another control plane acts, or nobody does yet; holder is empty then."""

    def __init__(self, holder: str, reason: str = "") -> None:
        who = f"{holder} does" if holder else "nobody does yet"
        super().__init__(f"this control plane may not act, {who}" + (f" ({reason})" * bool(reason)))
        self.holder = holder


def holder_name(name: str, url: str) -> str:
    """What a control plane is called in an election: NAME@URL of its operator API, or NAME."""
    return f"{name}@{url}" if url else name


def holder_url(holder: str) -> str:
    """The operator API's address in a holder's name, empty where it has none."""
    url = holder.partition("@")[2]
    return url if url.startswith(("http://", "https://")) else ""


@dataclass(frozen=True, slots=True)
class Term:
    """What is known of the leader. token: the fencing number, which grows with every change of
    the holder. renewed_age_s: since this process last heard that the term holds. other: the
    holder's name where it is known not to be this process."""

    holder: str
    is_me: bool
    token: int
    renewed_age_s: float = 0.0
    other: str = ""


class Leadership(Protocol):
    """One process's part in an election; backend is none, redis or kubernetes."""

    backend: str

    def term(self) -> Term:
        """As this process's own clock sees it: a lease that ran out here is nobody's."""

    async def confirm(self) -> int:
        """The fencing number of this process's term, as the store has it. Raises NotLeader."""

    def heard(self, token: int) -> None:
        """A worker has heard of this number: a store that has lost its own goes on above it."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Gives a held lease back, so that the next one need not wait for its end."""


class SoleLeadership:
    """The only control plane: it always acts."""

    backend = "none"

    def __init__(self, holder: str = "") -> None:
        self._holder = holder

    def term(self) -> Term:
        return Term(self._holder, is_me=True, token=0)

    async def confirm(self) -> int:
        return 0

    def heard(self, token: int) -> None:
        """There is no number."""

    async def start(self) -> None:
        """There is nobody to ask."""

    async def stop(self) -> None:
        """There is nothing to give back."""
