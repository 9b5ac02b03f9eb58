"""What is known of one sequence's drafts."""

from dataclasses import dataclass

from torch import Tensor

_WEIGHT = 0.1  # of the newest judged draft


@dataclass(slots=True)
class DraftRecord:
    """Part of a sequence; the speculator and the drafter keep it.

    num_computed: tokens whose keys and values the draft model has in its own cache, at the
    sequence's blocks. first: of these, the one that its context begins with. state: what it
    gave behind the last of them [hidden], where it needs that to go on. acceptance: the share of
    drafts that were right, the latest ones weighing most; None before the first.
    num_idle_steps: decode steps since it was last allowed a draft.
    """

    num_computed: int = 0
    first: int = 0
    state: Tensor | None = None
    acceptance: float | None = None
    num_idle_steps: int = 0

    def judge(self, before: float, num_accepted: int, was_refused: bool) -> None:
        """Learns from one step's drafts. before: the acceptance to begin with."""
        known = before if self.acceptance is None else self.acceptance
        self.acceptance = blend(known, num_accepted, was_refused, _WEIGHT)


def blend(share: float, num_accepted: int, was_refused: bool, weight: float) -> float:
    """A moving share after so many right drafts and then perhaps one wrong one."""
    share = 1.0 - (1.0 - share) * (1.0 - weight) ** num_accepted
    return share * (1.0 - weight) if was_refused else share
