"""The product of a few rows with a weight in int4, multiplied out a tile at a time."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.int4_linear import Int4Linear, Int4Weight
from engine.kernels.triton_kernels.chain import chain_options, wait_for_inputs

MOST_ROWS = 64  # beyond, torch multiplies with the weight multiplied out
TILE_ROWS, TILE_OUT = 16, 32


@triton.jit
def _int4_product(
    x_ptr,  # [rows, in_features]
    packed_ptr,  # [out_features, in_features / 2]
    scale_ptr,  # [out_features, groups]
    zero_ptr,  # the same
    bias_ptr,
    out_ptr,  # [rows, out_features]
    num_rows,
    out_features,
    in_features: tl.constexpr,
    group: tl.constexpr,
    has_bias: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_out: tl.constexpr,
    chained: tl.constexpr,
):
    wait_for_inputs(chained)
    half: tl.constexpr = group // 2
    groups: tl.constexpr = in_features // group
    features = tl.program_id(0) * tile_out + tl.arange(0, tile_out)
    rows = tl.program_id(1) * tile_rows + tl.arange(0, tile_rows)
    inner = tl.arange(0, half)
    is_feature, is_row = features < out_features, rows < num_rows
    wide = features.to(tl.int64)
    acc = tl.zeros((tile_rows, tile_out), tl.float32)
    for number in range(groups):
        bytes_at = packed_ptr + wide[:, None] * (in_features // 2) + number * half + inner[None, :]
        both = tl.load(bytes_at, mask=is_feature[:, None], other=0).to(tl.int32)
        scale = tl.load(scale_ptr + wide * groups + number, mask=is_feature, other=0.0)[:, None]
        zero = tl.load(zero_ptr + wide * groups + number, mask=is_feature, other=0.0)[:, None]
        x_at = x_ptr + rows[:, None] * in_features + number * group + inner[None, :]
        low_x = tl.load(x_at, mask=is_row[:, None], other=0.0)
        high_x = tl.load(x_at + half, mask=is_row[:, None], other=0.0)
        low = (((both & 15).to(tl.float32) - zero) * scale).to(low_x.dtype)
        high = (((both >> 4).to(tl.float32) - zero) * scale).to(low_x.dtype)
        acc = tl.dot(low_x, tl.trans(low), acc, input_precision="ieee")
        acc = tl.dot(high_x, tl.trans(high), acc, input_precision="ieee")
    if has_bias:
        acc += tl.load(bias_ptr + features, mask=is_feature, other=0.0).to(tl.float32)[None, :]
    out_at = out_ptr + rows[:, None].to(tl.int64) * out_features + features[None, :]
    inside = is_row[:, None] & is_feature[None, :]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True, slots=True)
class Int4RowLinear:
    """A weight in int4: an own kernel for up to MOST_ROWS rows; else Int4Linear."""

    weight: Int4Weight
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        if 0 < x.shape[0] <= MOST_ROWS:
            return int4_product(self.weight.ordered(x), self.weight, self.bias)
        return Int4Linear(self.weight, self.bias)(x)


def int4_product(x: Tensor, weight: Int4Weight, bias: Tensor | None) -> Tensor:
    """x [rows, in_features], its inputs ordered as the weight's -> [rows, out_features]."""
    num_rows, in_features = x.shape
    out_features = weight.packed.shape[0]
    out = torch.empty((num_rows, out_features), dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(out_features, TILE_OUT), triton.cdiv(num_rows, TILE_ROWS))
    _int4_product[grid](
        x.contiguous(),
        weight.packed,
        weight.scales,
        weight.zeros,
        x if bias is None else bias,
        out,
        num_rows,
        out_features,
        in_features=in_features,
        group=weight.group_size,
        has_bias=bias is not None,
        tile_rows=TILE_ROWS,
        tile_out=TILE_OUT,
        num_warps=4,
        num_stages=3,
        **chain_options(x.device),
    )
    return out
