"""The product of a few rows with a large weight, which is as fast as the weight can be read."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

MAX_ROWS = 16  # what one tensor-core tile takes
TILE_IN = 256


@triton.jit(do_not_specialize=["num_rows", "out_features"])
def _skinny_product(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    num_rows,
    out_features,
    in_features: tl.constexpr,
    has_bias: tl.constexpr,
    rows_padded: tl.constexpr,
    tile_out: tl.constexpr,
    tile_in: tl.constexpr,
):
    features = tl.program_id(0) * tile_out + tl.arange(0, tile_out)
    rows = tl.arange(0, rows_padded)
    inner = tl.arange(0, tile_in)
    present = features < out_features
    weights = weight_ptr + features.to(tl.int64)[:, None] * in_features + inner[None, :]
    inputs = x_ptr + rows[None, :] * in_features + inner[:, None]
    acc = tl.zeros((tile_out, rows_padded), tl.float32)
    for _ in tl.range(0, in_features, tile_in):
        weight = tl.load(weights, mask=present[:, None], other=0.0)
        x = tl.load(inputs, mask=(rows < num_rows)[None, :], other=0.0)
        acc = tl.dot(weight, x, acc)
        weights += tile_in
        inputs += tile_in
    if has_bias:
        bias = tl.load(bias_ptr + features, mask=present, other=0.0)
        acc += bias.to(tl.float32)[:, None]
    out = out_ptr + rows[None, :] * out_features + features[:, None]
    inside = present[:, None] & (rows < num_rows)[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True, slots=True)
class SkinnyLinear:
    """A weight as it is stored: an own kernel for a few rows in bf16, torch's product for more."""

    weight: Tensor  # [out_features, in_features]
    bias: Tensor | None
    wide: bool = False  # results in float32

    def __call__(self, x: Tensor) -> Tensor:
        if self.takes(x):
            return skinny_product(x, self.weight, self.bias, self.wide)
        out = functional.linear(x, self.weight, self.bias)
        return out.float() if self.wide else out

    def takes(self, x: Tensor) -> bool:
        return (
            0 < x.shape[0] <= MAX_ROWS
            and x.dtype == torch.bfloat16
            and x.shape[1] % TILE_IN == 0
            and x.is_contiguous()
            and self.weight.is_contiguous()
        )


def skinny_product(x: Tensor, weight: Tensor, bias: Tensor | None, wide: bool) -> Tensor:
    """x [rows, in_features] with at most MAX_ROWS rows -> [rows, out_features], float32 if wide."""
    num_rows, in_features = x.shape
    out_features = weight.shape[0]
    dtype = torch.float32 if wide else x.dtype
    out = torch.empty((num_rows, out_features), dtype=dtype, device=x.device)
    tile_out = 16
    _skinny_product[(triton.cdiv(out_features, tile_out),)](
        x,
        weight,
        weight if bias is None else bias,
        out,
        num_rows,
        out_features,
        in_features=in_features,
        has_bias=bias is not None,
        rows_padded=MAX_ROWS,
        tile_out=tile_out,
        tile_in=TILE_IN,
        num_warps=4,
        num_stages=4,
    )
    return out
