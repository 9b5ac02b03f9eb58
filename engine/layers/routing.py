"""How a token chooses among experts."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional


class Router(Protocol):
    """Chooses the experts of each token."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, hidden] -> the weights, float32, and the numbers of its experts, both [T, k]."""


@dataclass(frozen=True, slots=True)
class SoftmaxRouter:
    """The k most probable of all experts (arXiv 2401.04088, section 2.1)."""

    weight: Tensor  # [num_experts, hidden]
    experts_per_token: int
    normalise: bool  # weights of a token add up to 1

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = functional.linear(x, self.weight).float().softmax(-1)
        weights, chosen = scores.topk(self.experts_per_token, dim=-1)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, chosen


@dataclass(frozen=True, slots=True)
class GroupRouter:
    """The k best experts of the best groups; DeepSeek's, in float32.

    With a bias (DeepSeek-V3, arXiv 2412.19437, section 2.1.2) scores are sigmoids, the choice is
    made by score plus bias, and a group counts by its two best; without one (DeepSeek-V2, arXiv
    2405.04434, section 2.2.2) scores are a softmax, and a group counts by its best.
    """

    weight: Tensor  # [num_experts, hidden] float32
    bias: Tensor | None  # [num_experts] float32
    experts_per_token: int
    num_groups: int
    groups_kept: int
    normalise: bool
    scale: float  # of all weights

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional.linear(x.float(), self.weight)
        scores = logits.softmax(-1) if self.bias is None else logits.sigmoid()
        ranked = scores if self.bias is None else scores + self.bias
        chosen = self._of_best_groups(ranked).topk(self.experts_per_token, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.scale, chosen

    def _of_best_groups(self, ranked: Tensor) -> Tensor:
        """ranked [T, num_experts] with -inf for the experts of all other groups."""
        if self.groups_kept == self.num_groups:
            return ranked
        grouped = ranked.view(ranked.shape[0], self.num_groups, -1)
        by_best = grouped.topk(1 if self.bias is None else 2, dim=-1).values.sum(-1)
        kept = by_best.topk(self.groups_kept, dim=-1).indices  # [T, groups_kept]
        left_out = by_best.new_ones(by_best.shape).scatter(1, kept, 0.0).bool()
        return grouped.masked_fill(left_out.unsqueeze(-1), float("-inf")).view(ranked.shape)
