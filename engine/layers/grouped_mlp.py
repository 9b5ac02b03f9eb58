"""Experts as two products over all rows at once, without a wait for the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels import KernelSet
from engine.kernels.row_groups import GroupedProduct, RowGroups
from engine.layers.mlp import DenseMlp
from engine.layers.routing import Router


@dataclass(frozen=True, slots=True)
class GroupedMlp:
    """As SparseMlp, with the weights of all experts in one tensor and a kernel that takes them."""

    kernels: KernelSet
    product: GroupedProduct
    router: Router
    gate_up: Tensor  # [num_experts, 2 * intermediate, hidden]
    down: Tensor  # [num_experts, hidden, intermediate]
    shared: DenseMlp | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[T, hidden] -> the same shape. A token's experts are added in float32."""
        if x.shape[0] == 0:
            return x
        weights, chosen = self.router(x)
        groups = RowGroups.of(chosen, self.gate_up.shape[0])
        both = self.product(x, groups.order // chosen.shape[1], self.gate_up, groups)
        places = torch.arange(both.shape[0], device=x.device)
        given = self.product(self.kernels.silu_mul(both), places, self.down, groups)
        out = torch.empty_like(given)
        out[groups.order] = given
        shares = out.float().view(*chosen.shape, -1) * weights.unsqueeze(-1)  # [T, k, hidden]
        routed = shares.sum(1).to(x.dtype)
        return routed if self.shared is None else routed + self.shared(x)
