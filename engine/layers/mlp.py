"""The feed-forward of a layer: one gated product, or experts of which each token takes a few."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels import KernelSet, Linear


@dataclass(frozen=True, slots=True)
class DenseMlp:
    """down(silu(gate(x)) * up(x)), or with the tanh form of GELU in the place of SiLU."""

    kernels: KernelSet
    gate_up: Linear
    down: Linear
    gelu: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """[T, hidden] -> the same shape."""
        both = self.gate_up(x)
        return self.down(gelu_mul(both) if self.gelu else self.kernels.silu_mul(both))


def gelu_mul(gate_up: Tensor) -> Tensor:
    """gelu(gate) * up of [T, 2 * intermediate]: [T, intermediate], on any device."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (functional.gelu(gate, approximate="tanh") * up).to(gate_up.dtype)


@dataclass(frozen=True, slots=True)
class SparseMlp:
    """Experts behind a softmax router (arXiv 2401.04088, section 2.1).

    Tokens are sorted by expert, and each expert that has any gets one product over them. The
    sizes of these groups are read on the host: a call waits for a device once.
    """

    router: Tensor  # [num_experts, hidden]
    experts: tuple[DenseMlp, ...]
    experts_per_token: int
    normalise: bool

    def __call__(self, x: Tensor) -> Tensor:
        """[T, hidden] -> the same shape. A token's experts are added in float32."""
        if x.shape[0] == 0:
            return x
        weights, chosen = self.route(x)
        flat = chosen.flatten()
        order = flat.argsort(stable=True)  # [T * k], the (token, choice) pairs by expert
        rows = x[order // self.experts_per_token]
        sizes = flat.bincount(minlength=len(self.experts)).tolist()
        parts = [
            expert(part)
            for expert, part in zip(self.experts, torch.split(rows, sizes), strict=True)
            if part.shape[0]
        ]
        out = torch.empty_like(rows)
        out[order] = torch.cat(parts)
        shares = out.float().view(*chosen.shape, -1) * weights.unsqueeze(-1)  # [T, k, hidden]
        return shares.sum(1).to(x.dtype)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights, float32, and the numbers of each token's experts, both [T, k]."""
        scores = functional.linear(x, self.router).float().softmax(-1)
        weights, chosen = scores.topk(self.experts_per_token, dim=-1)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, chosen
