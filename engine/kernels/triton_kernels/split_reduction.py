"""How the keys of one token are split between programs, and how their parts become one output."""

import triton
import triton.language as tl

from engine.kernels.triton_kernels.chain import wait_for_inputs
from engine.kernels.triton_kernels.softmax_step import HIDDEN


@triton.jit
def split_tokens(num_keys, num_splits, tile_keys: tl.constexpr, min_tokens: tl.constexpr):
    """Keys of each split, a multiple of tile_keys: equal parts, but none under min_tokens."""
    even = (num_keys + num_splits - 1) // num_splits
    return (tl.maximum(even, min_tokens) + tile_keys - 1) // tile_keys * tile_keys


@triton.jit(do_not_specialize=["window", "num_splits"])
def reduce_splits(
    partial_ptr,  # float32 [S, num_splits, num_heads, head_dim]
    weight_ptr,  # float32 [S, num_splits, num_heads], log2 of each split's sum
    query_start_ptr,
    context_ptr,
    out_ptr,  # [T, num_heads, head_dim]
    window,
    num_splits,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    has_window: tl.constexpr,
    dim_padded: tl.constexpr,
    splits_padded: tl.constexpr,
    tile_keys: tl.constexpr,
    min_tokens: tl.constexpr,
    chained: tl.constexpr,
):
    """Weigh the parts of one head of one sequence by their sums and add them up.

    Source: Flash-Decoding (pytorch.org/blog/flash-decoding, 2023).
    """
    wait_for_inputs(chained)
    head = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    token = tl.load(query_start_ptr + sequence).to(tl.int64)
    if tl.load(query_start_ptr + sequence + 1) - token == 1:
        num_keys = tl.load(context_ptr + sequence)
        if has_window:
            num_keys = tl.minimum(num_keys, window)
        splits = tl.arange(0, splits_padded)
        share = split_tokens(num_keys, num_splits, tile_keys, min_tokens)
        used = ((splits < num_splits) & (splits * share < num_keys)) | (splits == 0)
        dims = tl.arange(0, dim_padded)
        places = (sequence * num_splits + splits) * num_heads + head
        weights = tl.load(weight_ptr + places, mask=used, other=HIDDEN)
        weights = tl.exp2(weights - tl.max(weights, axis=0))
        inside = used[:, None] & (dims < head_dim)[None, :]
        parts = partial_ptr + places[:, None] * head_dim + dims[None, :]
        summed = tl.sum(tl.load(parts, mask=inside, other=0.0) * weights[:, None], axis=0)
        target = out_ptr + (token * num_heads + head) * head_dim + dims
        out = summed / tl.sum(weights, axis=0)
        tl.store(target, out.to(out_ptr.dtype.element_ty), mask=dims < head_dim)
