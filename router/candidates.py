"""The workers that a request can be placed on, as values."""

from dataclasses import dataclass, field
from enum import StrEnum

from router.outlook import Outlook
from router.pairs import PairLinks
from wire.cluster import Mode, ServingMode
from wire.messages import Role


class WorkerState(StrEnum):
    """What the router thinks of a worker; only LIVE ones get legs.

    CONNECTING -> LIVE <-> DRAINING;  any -> LOST -> CONNECTING
    """

    CONNECTING = "connecting"
    LIVE = "live"
    DRAINING = "draining"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live worker that takes new legs. Workers of one group may pair."""

    worker_id: str
    epoch: int
    role: Role
    group: int
    num_seqs: int
    waiting_tokens: int
    num_free_blocks: int
    num_blocks: int = 0
    outlook: Outlook | None = None  # None: its predictor is cold
    model: str = ""  # that it serves; empty: whatever is asked for


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Both pools at one moment, the ways of KV between their workers, and how to use them."""

    prefill: tuple[Candidate, ...] = ()
    decode: tuple[Candidate, ...] = ()
    links: PairLinks = field(default_factory=dict)
    mode: Mode = Mode.HYBRID


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker for people and for /readyz."""

    worker_id: str
    epoch: int
    role: Role
    state: WorkerState
    address: str
    num_legs: int
    num_seqs: int
    waiting_tokens: int
    num_blocks: int
    num_free_blocks: int
    num_prefix_blocks: int


@dataclass(frozen=True, slots=True)
class RouterSnapshot:
    """All workers that the router knows. max_model_len is the least of them, 0 with none.

    serving: the mode that placements follow.
    """

    workers: tuple[WorkerView, ...]
    max_model_len: int
    has_control_plane: bool
    serving: ServingMode = ServingMode()

    @property
    def is_ready(self) -> bool:
        """A request would find a worker."""
        return any(worker.state is WorkerState.LIVE for worker in self.workers)
