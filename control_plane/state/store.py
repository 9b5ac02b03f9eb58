"""Where control planes of one cluster leave what the next leader goes on with."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from wire.cluster import WorkerBeat


class StoreSilent(Exception):
    """The store does not answer; the message is for an operator."""


class StandingConflict(Exception):
    """Somebody else has written since it was read."""


class OlderTerm(Exception):
    """A leader of a later term has written: this process leads no longer."""


class Kind(StrEnum):
    """Of an entry."""

    DECISION = "decisions"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Entry:
    """content: JSON of the API's DecisionView or AuditEntry."""

    kind: Kind
    content: bytes


@dataclass(frozen=True, slots=True)
class Outgoing:
    """workers: those whose record is new or due again. gone: those that have left."""

    entries: tuple[Entry, ...] = ()
    workers: tuple[WorkerBeat, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Incoming:
    """standing: JSON of a Standing, empty where there is none; version 0 then. entries: those
    since the last exchange, one's own among them."""

    standing: bytes = b""
    version: int = 0
    entries: tuple[Entry, ...] = ()


class StateStore(Protocol):
    """One process's link; every method raises StoreSilent. Whoever makes it closes it."""

    name: str

    async def exchange(self, outgoing: Outgoing) -> Incoming:
        """Leaves what is new here, and takes what is new there."""

    async def set_standing(self, content: bytes, seen: int, version: int, token: int) -> None:
        """Writes version where `seen` is still the one there.

        Raises StandingConflict, or OlderTerm where a higher token has written.
        """

    async def workers(self) -> tuple[WorkerBeat, ...]:
        """Every worker whose record has not run out."""

    async def hint(self, timeout_s: float) -> None:
        """Returns when something may have changed there, at the latest after timeout_s."""

    async def close(self) -> None: ...
