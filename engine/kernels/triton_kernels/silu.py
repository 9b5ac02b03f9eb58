"""The gate of the feed-forward: silu(gate) * up."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.triton_kernels.chain import chain_options, wait_for_inputs
from engine.kernels.triton_kernels.tile import next_power_of_2

CHUNK = 1024


@triton.jit
def _silu_mul(
    gate_up_ptr, out_ptr, inner: tl.constexpr, chunk: tl.constexpr, chained: tl.constexpr
):
    wait_for_inputs(chained)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * chunk + tl.arange(0, chunk)
    inside = columns < inner
    source = gate_up_ptr + row * 2 * inner + columns
    gate = tl.load(source, mask=inside, other=0.0)
    up = tl.load(source + inner, mask=inside, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    out = wide / (1.0 + tl.exp(-wide)) * up
    tl.store(out_ptr + row * inner + columns, out.to(gate.dtype), mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """[T, 2 * inner] -> [T, inner]"""
    num_tokens, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_tokens, inner), dtype=gate_up.dtype, device=gate_up.device)
    if num_tokens:
        chunk = min(CHUNK, next_power_of_2(inner))
        _silu_mul[(num_tokens, triton.cdiv(inner, chunk))](
            gate_up, out, inner=inner, chunk=chunk, num_warps=4, **chain_options(out.device)
        )
    return out
