"""Assembles experts for a kernel that multiplies all of them at once."""

import torch
from torch import Tensor

from engine.models.parts import PartBuilder
from engine.moe_config import MoeConfig


def stacked_experts(builder: PartBuilder, moe: MoeConfig, prefix: str) -> tuple[Tensor, Tensor]:
    """The weights called `prefix.expert.part`: gate_up [num_experts, 2 * intermediate, hidden] and
    down [num_experts, hidden, intermediate]; one expert exists twice at a time."""
    hidden, inner, source = builder.config.hidden_size, moe.intermediate_size, builder.source
    gate_up = torch.empty(
        (moe.num_experts, 2 * inner, hidden), dtype=builder.dtype, device=builder.device
    )
    down = torch.empty((moe.num_experts, hidden, inner), dtype=builder.dtype, device=builder.device)
    gate, up, out = moe.parts
    for expert in range(moe.num_experts):
        name = f"{prefix}.{expert}"
        gate_up[expert, :inner] = source.tensor(f"{name}.{gate}.weight", (inner, hidden))
        gate_up[expert, inner:] = source.tensor(f"{name}.{up}.weight", (inner, hidden))
        down[expert] = source.tensor(f"{name}.{out}.weight", (hidden, inner))
    return gate_up, down
