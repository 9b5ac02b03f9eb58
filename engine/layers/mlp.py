"""The feed-forward of a layer: one gated product, or experts of which each token takes a few."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels import KernelSet, Linear
from engine.layers.routing import Router


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
    """Experts behind a router, and beside them one that every token takes, where there is one.

    Tokens are sorted by expert, and each expert that has any gets one product over them. The
    sizes of these groups are read on the host: a call waits for a device once.

    The experts may be a run of all; the others' share of the result is then left out.
    """

    router: Router
    experts: tuple[DenseMlp, ...]
    shared: DenseMlp | None = None
    first_expert: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """[T, hidden] -> the same shape. A token's experts are added in float32."""
        if x.shape[0] == 0:
            return x
        weights, chosen = self.router(x)
        flat = chosen.flatten()
        order = flat.argsort(stable=True)  # [T * k], the (token, choice) pairs by expert
        end = self.first_expert + len(self.experts)
        counts = flat.bincount(minlength=end).tolist()
        skipped, sizes = sum(counts[: self.first_expert]), counts[self.first_expert : end]
        order = order[skipped : skipped + sum(sizes)]
        rows = x[order // chosen.shape[1]]
        parts = [
            expert(part)
            for expert, part in zip(self.experts, torch.split(rows, sizes), strict=True)
            if part.shape[0]
        ]
        out = x.new_zeros(flat.shape[0], x.shape[1])
        if parts:
            out[order] = torch.cat(parts)
        shares = out.float().view(*chosen.shape, -1) * weights.unsqueeze(-1)  # [T, k, hidden]
        routed = shares.sum(1).to(x.dtype)
        return routed if self.shared is None else routed + self.shared(x)
