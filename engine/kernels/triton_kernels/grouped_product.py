"""Products of rows with the weights of their groups: what experts are made of."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.row_groups import RowGroups
from engine.kernels.triton_kernels.chain import chain_options, wait_for_inputs

TILE_OUT, TILE_IN = 64, 64


@triton.jit
def _grouped_product(
    x_ptr,  # [n, in_features]
    rows_ptr,  # [P], which of x stands at each place
    weight_ptr,  # [num_groups, out_features, in_features]
    group_ptr,  # [tiles]
    first_ptr,
    end_ptr,
    out_ptr,  # [P, out_features]
    out_features,
    in_features: tl.constexpr,
    num_groups: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_out: tl.constexpr,
    tile_in: tl.constexpr,
    chained: tl.constexpr,
):
    wait_for_inputs(chained)
    group = tl.load(group_ptr + tl.program_id(0))
    if group < num_groups:
        places = tl.load(first_ptr + tl.program_id(0)) + tl.arange(0, tile_rows)
        is_row = places < tl.load(end_ptr + tl.program_id(0))
        rows = tl.load(rows_ptr + places, mask=is_row, other=0)
        features = tl.program_id(1) * tile_out + tl.arange(0, tile_out)
        is_feature = features < out_features
        weights = weight_ptr + (group * out_features + features)[:, None] * in_features
        acc = tl.zeros((tile_rows, tile_out), tl.float32)
        for start in range(0, in_features, tile_in):
            inner = start + tl.arange(0, tile_in)
            inside = (inner < in_features)[None, :]
            x_at = x_ptr + rows[:, None] * in_features + inner[None, :]
            x = tl.load(x_at, mask=is_row[:, None] & inside, other=0.0)
            weight = tl.load(weights + inner[None, :], mask=is_feature[:, None] & inside, other=0.0)
            acc = tl.dot(x, tl.trans(weight), acc, input_precision="ieee")
        out_at = out_ptr + places[:, None] * out_features + features[None, :]
        wanted = is_row[:, None] & is_feature[None, :]
        tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=wanted)


def grouped_product(x: Tensor, rows: Tensor, weights: Tensor, groups: RowGroups) -> Tensor:
    """As `grouped_twin`; nothing waits for the device."""
    num_groups, out_features, in_features = weights.shape
    out = torch.empty((rows.shape[0], out_features), dtype=x.dtype, device=x.device)
    _grouped_product[(groups.group_of.shape[0], triton.cdiv(out_features, TILE_OUT))](
        x,
        rows,
        weights,
        groups.group_of,
        groups.first,
        groups.end,
        out,
        out_features,
        in_features=in_features,
        num_groups=num_groups,
        tile_rows=groups.tile_rows,
        tile_out=TILE_OUT,
        tile_in=TILE_IN,
        num_warps=4,
        num_stages=3,
        **chain_options(x.device),
    )
    return out
