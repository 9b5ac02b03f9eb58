"""Causal attention of chunks of many tokens over the paged cache, flash style."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.batch_input import BatchInput
from engine.kernels.triton_kernels.softmax_step import HIDDEN, fold_keys
from engine.kernels.triton_kernels.tile import Tile, next_power_of_2, padded_dim, softmax_scale


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


@triton.jit(do_not_specialize=["num_sequences", "window", "min_queries"])
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
        table = tables_ptr + sequence.to(tl.int64) * table_width
        kv = kv_ptr + kv_head * (block_size * head_dim)
        acc = tl.zeros((tile_rows, dim_padded), tl.float32)
        total = tl.zeros((tile_rows,), tl.float32)
        peak = tl.full((tile_rows,), HIDDEN, tl.float32)
        #  0 or the window's first key    diagonal             end
        #  | every row sees every key     | some rows see some |
        diagonal = (first_position + 1) // tile_keys * tile_keys
        lowest = 0
        if has_window:
            lowest = tl.maximum(first_position - window + 1, 0)
            diagonal = lowest
        else:
            acc, total, peak = fold_keys(
                q, positions, acc, total, peak, kv, table, 0, 0, diagonal, window, scale, dims,
                num_kv_heads, head_dim, block_size, False, False, tile_keys,
            )  # fmt: skip
        acc, total, peak = fold_keys(
            q, positions, acc, total, peak, kv, table, lowest, diagonal, end, window, scale, dims,
            num_kv_heads, head_dim, block_size, has_window, True, tile_keys,
        )  # fmt: skip
        tl.store(out_ptr + offsets, (acc / total[:, None]).to(q.dtype), mask=inside)


def tile_for(dtype: torch.dtype) -> Tile:
    """The tile that measured fastest (docs/gpu.md); float32 serves tests and keeps it small."""
    if dtype == torch.float32:
        return Tile(rows=32, keys=32, warps=4, stages=2)
    return Tile(rows=128, keys=64, warps=8, stages=2, registers=128)


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
    group = num_heads // num_kv_heads
    tile = tile_for(q.dtype)
    tile_rows = max(tile.rows, next_power_of_2(group))
    num_tiles = num_tokens // (tile_rows // group) + batch.num_sequences
    _prefill_attention[(num_tiles, num_kv_heads)](
        q,
        layer_kv,
        batch.block_tables,
        batch.query_start,
        batch.context_len,
        out,
        softmax_scale(head_dim),
        batch.num_sequences,
        batch.block_tables.stride(0),
        window or 0,
        min_queries,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        block_size=block_size,
        has_window=window is not None,
        dim_padded=padded_dim(head_dim),
        tile_rows=tile_rows,
        tile_keys=tile.keys,
        num_warps=tile.warps,
        num_stages=tile.stages,
        maxnreg=tile.registers,
    )
