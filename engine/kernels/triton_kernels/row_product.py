"""The product of one row with a large weight, which is as fast as the weight can be read."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from engine.kernels.fp8_linear import Fp8Linear, Fp8Weight
from engine.kernels.triton_kernels.chain import chain_options, wait_for_inputs

TILE_IN = 512  # weights are whole tiles of it


@triton.jit(do_not_specialize=["out_features"])
def _row_product(
    x_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,  # [out_features] float32, of a weight in fp8
    out_ptr,
    out_features,
    in_features: tl.constexpr,
    has_scale: tl.constexpr,
    has_bias: tl.constexpr,
    tile_out: tl.constexpr,
    tile_in: tl.constexpr,
    chained: tl.constexpr,
):
    features = tl.program_id(0) * tile_out + tl.arange(0, tile_out)
    inner = tl.arange(0, tile_in)
    present = features < out_features
    weights = weight_ptr + features.to(tl.int64)[:, None] * in_features + inner[None, :]
    # The weight is nobody's output: its first tile comes while the kernel before still runs.
    following = tl.load(weights, mask=present[:, None], other=0.0)
    wait_for_inputs(chained)
    acc = tl.zeros((tile_out, tile_in), tl.float32)
    for start in range(0, in_features, tile_in):
        weight = following
        weights += tile_in
        more = present & (start + tile_in < in_features)
        following = tl.load(weights, mask=more[:, None], other=0.0)
        x = tl.load(x_ptr + start + inner).to(tl.float32)
        acc += weight.to(tl.float32) * x[None, :]
    out = tl.sum(acc, axis=1)
    if has_scale:
        out *= tl.load(scale_ptr + features, mask=present, other=0.0)
    if has_bias:
        out += tl.load(bias_ptr + features, mask=present, other=0.0).to(tl.float32)
    tl.store(out_ptr + features, out.to(out_ptr.dtype.element_ty), mask=present)


@dataclass(frozen=True, slots=True)
class RowLinear:
    """A weight as it is stored: an own kernel for one row in bf16, torch's product for more."""

    weight: Tensor  # [out_features, in_features]
    bias: Tensor | None
    wide: bool = False  # results in float32

    def __call__(self, x: Tensor) -> Tensor:
        if takes(x, self.weight):
            return row_product(x, self.weight, None, self.bias, self.wide)
        out = functional.linear(x, self.weight, self.bias)
        return out.float() if self.wide else out


@dataclass(frozen=True, slots=True)
class Fp8RowLinear:
    """A weight in fp8: an own kernel, which leaves the row in bf16, for one; else Fp8Linear."""

    weight: Fp8Weight
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        if takes(x, self.weight.values):
            return row_product(x, self.weight.values, self.weight.scales, self.bias, wide=False)
        return Fp8Linear(self.weight, self.bias)(x)


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel is for these."""
    return (
        x.shape[0] == 1
        and x.dtype == torch.bfloat16
        and x.shape[1] % TILE_IN == 0
        and x.is_contiguous()
        and weight.is_contiguous()
    )


def tile_for(in_features: int) -> tuple[int, int]:
    """Outputs and inputs of a tile: wide for a short row; a long one goes faster in company."""
    short = in_features % 1024 == 0 and in_features <= 8192
    return (1, 1024) if short else (4, TILE_IN)


def row_product(
    x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None, wide: bool
) -> Tensor:
    """x [1, in_features] -> [1, out_features], in float32 if wide. in_features is whole tiles.

    scales [out_features] float32 are a weight's in fp8.
    """
    out_features, in_features = weight.shape
    dtype = torch.float32 if wide else x.dtype
    out = torch.empty((1, out_features), dtype=dtype, device=x.device)
    tile_out, tile_in = tile_for(in_features)
    _row_product[(triton.cdiv(out_features, tile_out),)](
        x,
        weight,
        weight if bias is None else bias,
        weight if scales is None else scales,
        out,
        out_features,
        in_features=in_features,
        has_scale=scales is not None,
        has_bias=bias is not None,
        tile_out=tile_out,
        tile_in=tile_in,
        num_warps=4,
        **chain_options(x.device),
    )
    return out
