"""Rotary encoding of heads in plain torch."""

import torch
from torch import Tensor


def rotate(x: Tensor, rope_rows: Tensor) -> Tensor:
    """Rotate x [T, heads, head_dim] by its tokens' angles; rope_rows is [T, head_dim] float32."""
    cos, sin = rope_rows.unsqueeze(1).chunk(2, dim=-1)  # each [T, 1, head_dim / 2]
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)
