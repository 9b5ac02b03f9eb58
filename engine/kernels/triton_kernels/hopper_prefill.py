"""Causal attention of long chunks on Hopper GPUs: copies, products and softmax run side by side.

Source: FlashAttention-3 (arXiv 2407.08608), sections 3.1 and 3.2, with keys and values read from
paged blocks by the tensor memory accelerator.

    producer (1 warp)      keys and values of a tile -> shared memory, 2 tiles ahead
    consumer 0 (4 warps)   rows  0..63  of the queries: scores, softmax, weighted values
    consumer 1 (4 warps)   rows 64..127 of the queries

Gluon, the layer of Triton that this is written in, changes between releases and has no
interpreter: `hopper_support` lets only the releases through that the tests compiled it with.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from engine.kernels.batch_input import BatchInput
from engine.kernels.triton_kernels.hopper_rows import ROWS, SHARED, consume
from engine.kernels.triton_kernels.hopper_tiles import (
    BLOCK_SIZE,
    DIM,
    SPAN,
    TILE_DIM,
    TILE_KEYS,
    TILE_SPAN,
    TILE_STAGES,
    produce,
)
from engine.kernels.triton_kernels.tile import softmax_scale

PROGRAM_ROWS = 128  # query tokens times the heads that share their keys
_PROGRAM_ROWS = gl.constexpr(PROGRAM_ROWS)
_BLOCK = gl.constexpr(BLOCK_SIZE)


@gluon.jit
def _sequence_of_tile(query_start_ptr, tile, num_sequences, tile_tokens: gl.constexpr):
    """As in prefill_attention: sequence s owns tiles from query_start[s] / tile_tokens + s on."""
    low = 0
    high = num_sequences
    while low < high:
        middle = (low + high) // 2
        if gl.load(query_start_ptr + middle) // tile_tokens + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@gluon.jit(do_not_specialize=["num_sequences", "min_queries"])
def _hopper_prefill(
    descriptor,
    q_ptr,
    tables_ptr,
    query_start_ptr,
    context_ptr,
    out_ptr,
    scale,
    num_sequences,
    table_width,
    min_queries,
    num_heads: gl.constexpr,
    num_kv_heads: gl.constexpr,
):
    group: gl.constexpr = num_heads // num_kv_heads
    tile_tokens: gl.constexpr = _PROGRAM_ROWS // group
    tile = gl.num_programs(0) - 1 - gl.program_id(0)
    kv_head = gl.program_id(1)
    sequence = _sequence_of_tile(query_start_ptr, tile, num_sequences, tile_tokens)
    start = gl.load(query_start_ptr + sequence)
    num_queries = gl.load(query_start_ptr + sequence + 1) - start
    first = (tile - start // tile_tokens - sequence) * tile_tokens
    if (first < num_queries) & (num_queries >= min_queries):
        context = gl.load(context_ptr + sequence)
        first_position = context - num_queries + first
        end = gl.minimum(first_position + tile_tokens, context)
        num_tiles = (end + TILE_KEYS - 1) // TILE_KEYS
        num_full = (first_position + 1) // TILE_KEYS
        table_ptr = tables_ptr + sequence.to(gl.int64) * table_width

        queries = gl.allocate_shared_memory(gl.bfloat16, [2, ROWS, TILE_DIM], SHARED)
        keys = gl.allocate_shared_memory(
            gl.bfloat16, [TILE_STAGES, 2 * TILE_KEYS, TILE_SPAN], SHARED
        )
        values = gl.allocate_shared_memory(
            gl.bfloat16, [TILE_STAGES, 2 * TILE_KEYS, TILE_SPAN], SHARED
        )
        barriers: gl.constexpr = mbarrier.MBarrierLayout()
        full_keys = gl.allocate_shared_memory(gl.int64, [TILE_STAGES, 1], barriers)
        free_keys = gl.allocate_shared_memory(gl.int64, [TILE_STAGES, 1], barriers)
        full_values = gl.allocate_shared_memory(gl.int64, [TILE_STAGES, 1], barriers)
        free_values = gl.allocate_shared_memory(gl.int64, [TILE_STAGES, 1], barriers)
        for stage in gl.static_range(TILE_STAGES):
            mbarrier.init(full_keys.index(stage), count=1)
            mbarrier.init(full_values.index(stage), count=1)
            mbarrier.init(free_keys.index(stage), count=2)
            mbarrier.init(free_values.index(stage), count=2)
        num_blocks = (end + _BLOCK - 1) // _BLOCK
        gl.warp_specialize(
            [
                (consume, (
                    q_ptr, out_ptr, queries.index(0), keys, values, full_keys, free_keys,
                    full_values, free_values, start, first, num_queries, context, kv_head,
                    num_tiles, num_full, scale, 0, num_heads, group,
                )),
                (consume, (
                    q_ptr, out_ptr, queries.index(1), keys, values, full_keys, free_keys,
                    full_values, free_values, start, first, num_queries, context, kv_head,
                    num_tiles, num_full, scale, 1, num_heads, group,
                )),
                (produce, (
                    descriptor, keys, values, full_keys, free_keys, full_values, free_values,
                    table_ptr, num_tiles, num_blocks, kv_head, num_kv_heads,
                )),
            ],
            worker_num_warps=[4, 1],
            worker_num_regs=[240, 24],
        )  # fmt: skip


def takes(q: Tensor, layer_kv: Tensor, window: int | None) -> bool:
    """Whether this kernel serves these shapes on this device."""
    group = q.shape[1] // layer_kv.shape[2]
    return (
        q.dtype == layer_kv.dtype == torch.bfloat16
        and q.shape[2] == DIM
        and layer_kv.shape[3] == BLOCK_SIZE
        and window is None
        and PROGRAM_ROWS % group == 0
        and q.is_cuda
        and torch.cuda.get_device_capability(q.device)[0] == 9
    )


def hopper_prefill(
    q: Tensor, batch: BatchInput, layer_kv: Tensor, out: Tensor, min_queries: int
) -> None:
    """What prefill_attention does, where `takes` holds."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = layer_kv.shape[2]
    tile_tokens = PROGRAM_ROWS // (num_heads // num_kv_heads)
    rows = layer_kv.view(-1, head_dim)
    descriptor = TensorDescriptor.from_tensor(rows, [BLOCK_SIZE, SPAN], SHARED.value)
    num_tiles = num_tokens // tile_tokens + batch.num_sequences
    _hopper_prefill[(num_tiles, num_kv_heads)](
        descriptor,
        q,
        batch.block_tables,
        batch.query_start,
        batch.context_len,
        out,
        softmax_scale(head_dim),
        batch.num_sequences,
        batch.block_tables.stride(0),
        min_queries,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        num_warps=4,
    )
