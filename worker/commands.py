"""What other threads ask of the engine's thread, one frozen dataclass each."""

from dataclasses import dataclass

from kv_transfer.pull import PullResult
from wire.messages import Role, StartLeg


@dataclass(frozen=True, slots=True)
class Join:
    """A gateway's session begins: it gets a snapshot, then every block event."""

    session_id: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A session ended: its legs are cancelled."""

    session_id: int


@dataclass(frozen=True, slots=True)
class Start:
    """came_s: when, on the engine's clock; 0: now."""

    session_id: int
    leg: StartLeg
    came_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cancel:
    session_id: int
    leg_id: int


@dataclass(frozen=True, slots=True)
class Continue:
    """Output tokens from `index` on are known: a leg that waits or lags goes on behind them."""

    session_id: int
    leg_id: int
    index: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    session_id: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """The importer is done with a pull."""

    result: PullResult


@dataclass(frozen=True, slots=True)
class Released:
    """The exporter is done with a published sequence's blocks."""

    seq_id: int


@dataclass(frozen=True, slots=True)
class Drain:
    """No new legs from here on; those that decode are to go on elsewhere."""


@dataclass(frozen=True, slots=True)
class Flip:
    """Take this role."""

    role: Role


@dataclass(frozen=True, slots=True)
class Migrate:
    """Have so many of the longest legs go on elsewhere."""

    count: int


Command = (
    Join | Leave | Start | Cancel | Continue | Snapshot | Pulled | Released | Drain | Flip | Migrate
)
