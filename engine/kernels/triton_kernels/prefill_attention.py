"""Causal attention of chunks of many tokens over the paged cache, flash style."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.batch_input import BatchInput
from engine.kernels.triton_kernels.softmax_step import HIDDEN, fold, key_offsets


@triton.jit
def _sequence_of_tile(query_start_ptr, tile, num_sequences, tile_tokens: tl.constexpr):
    """The sequence that owns a tile: sequence s owns those from query_start[s] / tile + s on."""
    low = 0
    high = num_sequences
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_start_ptr + middle) // tile_tokens + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _fold_keys(
    q,
    positions,
    acc,
    total,
    peak,
    kv_ptr,  # at the kv head, element [dim] of each key's row
    table_ptr,
    first_key,
    begin,
    end,
    window,
    scale,
    dims,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_size: tl.constexpr,
    has_window: tl.constexpr,
    masked: tl.constexpr,
    tile_keys: tl.constexpr,
):
    """Fold keys begin..end into the softmax; `begin` is a multiple of tile_keys."""
    v_offset: tl.constexpr = num_kv_heads * block_size * head_dim
    for start in tl.range(begin, end, tile_keys):
        keys = start + tl.arange(0, tile_keys)
        readable = (keys >= first_key) & (keys < end) if masked else keys >= 0
        rows = key_offsets(table_ptr, keys, readable, num_kv_heads, head_dim, block_size)
        pointers = kv_ptr + rows[:, None] + dims[None, :]
        wanted = readable[:, None] & (dims < head_dim)[None, :]
        visible = keys[None, :] <= positions[:, None]
        if has_window:
            visible = visible & (keys[None, :] > positions[:, None] - window)
        if masked or head_dim != dims.shape[0]:
            k = tl.load(pointers, mask=wanted, other=0.0)
            v = tl.load(pointers + v_offset, mask=wanted, other=0.0)
        else:
            k = tl.load(pointers)
            v = tl.load(pointers + v_offset)
        acc, total, peak = fold(q, k, v, visible, scale, acc, total, peak, masked)
    return acc, total, peak


@triton.jit(do_not_specialize=["num_sequences", "table_width", "window", "min_queries"])
def _prefill_attention(
    q_ptr,
    kv_ptr,
    tables_ptr,
    query_start_ptr,
    context_ptr,
    out_ptr,
    scale,
    num_sequences,
    table_width,
    window,
    min_queries,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_size: tl.constexpr,
    has_window: tl.constexpr,
    dim_padded: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_keys: tl.constexpr,
):
    group: tl.constexpr = num_heads // num_kv_heads
    tile_tokens: tl.constexpr = tile_rows // group
    # Late tiles see the most keys: they start first, and the short ones fill the last gaps.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = _sequence_of_tile(query_start_ptr, tile, num_sequences, tile_tokens)
    start = tl.load(query_start_ptr + sequence)
    num_queries = tl.load(query_start_ptr + sequence + 1) - start
    first = (tile - start // tile_tokens - sequence) * tile_tokens
    if (first < num_queries) & (num_queries >= min_queries):
        context = tl.load(context_ptr + sequence)
        rows = tl.arange(0, tile_rows)
        tokens = first + rows // group
        dims = tl.arange(0, dim_padded)
        live = (tokens < num_queries) & (rows < tile_tokens * group)
        offsets = (start + tokens).to(tl.int64) * num_heads + kv_head * group + rows % group
        offsets = offsets[:, None] * head_dim + dims[None, :]
        inside = live[:, None] & (dims < head_dim)[None, :]
        q = tl.load(q_ptr + offsets, mask=inside, other=0.0)

        first_position = context - num_queries + first
        positions = context - num_queries + tokens
        end = tl.minimum(first_position + tile_tokens, context)
        first_key = 0
        if has_window:
            first_key = tl.maximum(first_position - window + 1, 0)
        begin = first_key // tile_keys * tile_keys
        # Keys before `diagonal` are seen by every row of the tile.
        diagonal = begin if has_window else (first_position + 1) // tile_keys * tile_keys
        table_ptr = tables_ptr + sequence.to(tl.int64) * table_width
        head_kv_ptr = kv_ptr + kv_head * (block_size * head_dim)
        acc = tl.zeros((tile_rows, dim_padded), tl.float32)
        total = tl.zeros((tile_rows,), tl.float32)
        peak = tl.full((tile_rows,), HIDDEN, tl.float32)
        if not has_window:
            acc, total, peak = _fold_keys(
                q, positions, acc, total, peak, head_kv_ptr, table_ptr, first_key, begin, diagonal,
                window, scale, dims, num_kv_heads, head_dim, block_size, False, False, tile_keys,
            )  # fmt: skip
        acc, total, peak = _fold_keys(
            q, positions, acc, total, peak, head_kv_ptr, table_ptr, first_key, diagonal, end,
            window, scale, dims, num_kv_heads, head_dim, block_size, has_window, True, tile_keys,
        )  # fmt: skip
        out = acc / total[:, None]
        tl.store(out_ptr + offsets, out.to(q.dtype), mask=inside)


def prefill_attention(
    q: Tensor,
    batch: BatchInput,
    layer_kv: Tensor,
    window: int | None,
    out: Tensor,
    min_queries: int,
) -> None:
    """Attend from q [T, num_heads, head_dim] of the sequences with at least `min_queries` tokens.

    Their rows of `out`, of q's shape, are written and no others. Nothing waits for the device:
    the grid holds as many tiles as T tokens of S sequences can need.
    """
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, block_size = layer_kv.shape[2:4]
    wide = q.dtype == torch.float32
    tile_rows = max(64 if wide else 128, triton.next_power_of_2(num_heads // num_kv_heads))
    tile_tokens = tile_rows // (num_heads // num_kv_heads)
    _prefill_attention[(num_tokens // tile_tokens + batch.num_sequences, num_kv_heads)](
        q,
        layer_kv,
        batch.block_tables,
        batch.query_start,
        batch.context_len,
        out,
        head_dim**-0.5 * math.log2(math.e),
        batch.num_sequences,
        batch.block_tables.stride(0),
        window or 0,
        min_queries,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        block_size=block_size,
        has_window=window is not None,
        dim_padded=max(16, triton.next_power_of_2(head_dim)),
        tile_rows=tile_rows,
        tile_keys=32 if wide else 64,
        num_warps=4 if wide else 8,
        num_stages=2 if wide else 3,
    )
