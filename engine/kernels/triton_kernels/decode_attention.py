"""Attention of single tokens over the paged cache, split along the keys and reduced after."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.batch_input import BatchInput
from engine.kernels.triton_kernels.chain import chain_options, wait_for_inputs
from engine.kernels.triton_kernels.softmax_step import HIDDEN, fold_keys
from engine.kernels.triton_kernels.split_reduction import reduce_splits, split_tokens
from engine.kernels.triton_kernels.tile import Tile, next_power_of_2, padded_dim, softmax_scale

MAX_SPLITS = 128
MIN_SPLIT_TOKENS = 128
PROGRAMS_PER_PROCESSOR = 2


@triton.jit(do_not_specialize=["window", "num_splits"])
def _decode_attention(
    q_ptr,
    kv_ptr,
    tables_ptr,
    query_start_ptr,
    context_ptr,
    out_ptr,  # q's dtype and shape, or float32 [S, num_splits, num_heads, head_dim]
    weight_ptr,  # float32 [S, num_splits, num_heads], log2 of each split's sum
    scale,
    table_width,
    window,
    num_splits,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_size: tl.constexpr,
    has_window: tl.constexpr,
    is_split: tl.constexpr,
    dim_padded: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_keys: tl.constexpr,
    min_tokens: tl.constexpr,
    chained: tl.constexpr,
):
    wait_for_inputs(chained)
    group: tl.constexpr = num_heads // num_kv_heads
    split = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    token = tl.load(query_start_ptr + sequence)
    num_queries = tl.load(query_start_ptr + sequence + 1) - token
    context = tl.load(context_ptr + sequence)
    lowest = 0
    if has_window:
        lowest = tl.maximum(context - window, 0)
    share = split_tokens(context - lowest, num_splits, tile_keys, min_tokens)
    begin = lowest + split * share
    end = tl.minimum(begin + share, context)
    if (num_queries == 1) & ((begin < end) | (split == 0)):
        rows = tl.arange(0, tile_rows)
        dims = tl.arange(0, dim_padded)
        heads = kv_head * group + rows
        inside = (rows < group)[:, None] & (dims < head_dim)[None, :]
        offsets = heads[:, None] * head_dim + dims[None, :]
        row = token.to(tl.int64) * num_heads * head_dim
        q = tl.load(q_ptr + row + offsets, mask=inside, other=0.0)
        acc = tl.zeros((tile_rows, dim_padded), tl.float32)
        total = tl.zeros((tile_rows,), tl.float32)
        peak = tl.full((tile_rows,), HIDDEN, tl.float32)
        acc, total, peak = fold_keys(
            q, rows * 0 + context, acc, total, peak, kv_ptr + kv_head * (block_size * head_dim),
            tables_ptr + sequence * table_width, lowest, begin, end, window, scale, dims,
            num_kv_heads, head_dim, block_size, False, True, tile_keys,
        )  # fmt: skip
        # A padding sequence has no context: its total is 0 and its output 0.
        safe = tl.where(total > 0.0, total, 1.0)
        out = acc / safe[:, None]
        if is_split:
            place = (sequence * num_splits + split) * num_heads
            tl.store(out_ptr + place * head_dim + offsets, out, mask=inside)
            tl.store(weight_ptr + place + heads, peak + tl.log2(safe), mask=rows < group)
        else:
            tl.store(out_ptr + row + offsets, out.to(q.dtype), mask=inside)


def tile_for(dtype: torch.dtype) -> Tile:
    """The tile that measured fastest (docs/gpu.md). A matrix product takes 16 rows at least."""
    if dtype == torch.float32:
        return Tile(rows=16, keys=32, warps=4, stages=2)
    return Tile(rows=16, keys=64, warps=4, stages=4)


def choose_splits(num_programs: int, max_context: int, num_processors: int) -> int:
    """Parts that each sequence's keys are cut into, so that all processors have work."""
    wanted = -(-PROGRAMS_PER_PROCESSOR * num_processors // max(num_programs, 1))
    return max(1, min(wanted, max_context // MIN_SPLIT_TOKENS, MAX_SPLITS))


def decode_attention(
    q: Tensor,
    batch: BatchInput,
    layer_kv: Tensor,
    window: int | None,
    out: Tensor,
    num_processors: int,
) -> None:
    """Attend from q [T, num_heads, head_dim] of the sequences that give one token.

    Their rows of `out`, of q's shape, are written and no others. Nothing waits for the device.
    A sequence whose context is 0 pads the batch: its row becomes 0.
    """
    num_heads, head_dim = q.shape[1:]
    num_kv_heads, block_size = layer_kv.shape[2:4]
    num_sequences = batch.num_sequences
    max_context = batch.block_tables.shape[1] * block_size
    splits = choose_splits(num_sequences * num_kv_heads, max_context, num_processors)
    shape = (num_sequences, splits, num_heads, head_dim)
    partial = torch.empty(shape, dtype=torch.float32, device=q.device) if splits > 1 else out
    weights = torch.empty(shape[:3], dtype=torch.float32, device=q.device)
    tile = tile_for(q.dtype)
    common = {
        "num_heads": num_heads,
        "head_dim": head_dim,
        "has_window": window is not None,
        "dim_padded": padded_dim(head_dim),
        "tile_keys": tile.keys,
        "min_tokens": MIN_SPLIT_TOKENS,
    }
    _decode_attention[(splits, num_kv_heads, num_sequences)](
        q,
        layer_kv,
        batch.block_tables,
        batch.query_start,
        batch.context_len,
        partial,
        weights,
        softmax_scale(head_dim),
        batch.block_tables.stride(0),
        window or 0,
        splits,
        num_kv_heads=num_kv_heads,
        block_size=block_size,
        is_split=splits > 1,
        tile_rows=max(tile.rows, next_power_of_2(num_heads // num_kv_heads)),
        num_warps=tile.warps,
        num_stages=tile.stages,
        **common,
        **chain_options(q.device),
    )
    if splits > 1:
        reduce_splits[(num_heads, num_sequences)](
            partial,
            weights,
            batch.query_start,
            batch.context_len,
            out,
            window or 0,
            splits,
            splits_padded=next_power_of_2(splits),
            num_warps=4,
            **common,
            **chain_options(q.device),
        )
