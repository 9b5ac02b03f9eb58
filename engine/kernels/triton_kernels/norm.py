"""RMSNorm with the residual added first, one pass over each row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.triton_kernels.chain import chain_options, wait_for_inputs
from engine.kernels.triton_kernels.tile import next_power_of_2


@triton.jit
def _rms_norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    eps,
    hidden: tl.constexpr,
    has_residual: tl.constexpr,
    columns_padded: tl.constexpr,
    chained: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * hidden
    columns = tl.arange(0, columns_padded)
    inside = columns < hidden
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    wait_for_inputs(chained)
    x = tl.load(x_ptr + row + columns, mask=inside, other=0.0)
    if has_residual:
        residual = tl.load(residual_ptr + row + columns, mask=inside, other=0.0)
        # The sum is rounded to the stored dtype before it is normalised, as the twin does.
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(residual_ptr + row + columns, x, mask=inside)
    wide = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / hidden + eps)
    tl.store(out_ptr + row + columns, (wide * scale * weight).to(x.dtype), mask=inside)


def rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x [T, hidden] plus the residual (in place), normalised: (normed, residual)."""
    num_tokens, hidden = x.shape
    out = torch.empty_like(x)
    if num_tokens:
        padded = next_power_of_2(hidden)
        _rms_norm[(num_tokens,)](
            x,
            x if residual is None else residual,
            weight,
            out,
            eps,
            hidden=hidden,
            has_residual=residual is not None,
            columns_padded=padded,
            num_warps=min(max(padded // 512, 1), 16),
            **chain_options(x.device),
        )
    return out, x if residual is None else residual
