"""What one turn of the engine's loop has for everybody else."""

from dataclasses import dataclass, field

from engine.results import StepResult
from kv_transfer.pull import PullResult
from wire.messages import BlockEvent, BlockSnapshot, LegEvent, Role, WorkerReport


@dataclass(slots=True)
class Outbox:
    """What the sessions are to be told after one turn of the loop, and what was measured."""

    report: WorkerReport
    events: dict[int, list[LegEvent]] = field(default_factory=dict)  # by session
    snapshots: dict[int, BlockSnapshot] = field(default_factory=dict)
    block_event: BlockEvent | None = None
    pulls: list[PullResult] = field(default_factory=list)
    steps: list[StepResult] = field(default_factory=list)
    flips: list[Role] = field(default_factory=list)  # roles taken
    num_preemptions: int = 0  # since the worker began
    has_news: bool = False  # the role, or whether the worker is flipping, has changed

    @property
    def is_empty(self) -> bool:
        told = self.events or self.snapshots or self.block_event
        return not (told or self.pulls or self.steps or self.has_news)
