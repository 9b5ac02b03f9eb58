"""Tiles of keys and values on their way from paged blocks to a Hopper GPU's shared memory."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

DIM = 128
KEYS = 128  # of a tile
BLOCK_SIZE = 16
# A shared-memory row of 64 bf16 values is what the swizzle spans, so a tile of [KEYS, DIM] lies
# in memory as two of [KEYS, SPAN], and a block of the cache arrives in two pieces of [16, SPAN].
SPAN = 64

TILE_DIM = gl.constexpr(DIM)
TILE_KEYS = gl.constexpr(KEYS)
TILE_STAGES = gl.constexpr(2)
TILE_SPAN = gl.constexpr(SPAN)
_BLOCK = gl.constexpr(BLOCK_SIZE)
# All warps of a partition meet here; Triton 3.7 gave it its present name.
meet = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier


@gluon.jit
def _copy_tile(descriptor, barrier, target, table_ptr, first_block, num_blocks, first_row, step):
    """Start the copies of one tile; blocks from num_blocks on arrive as zeros."""
    mbarrier.expect(barrier, TILE_KEYS * TILE_DIM * 2)
    for index in gl.static_range(TILE_KEYS // _BLOCK):
        present = first_block + index < num_blocks
        block = gl.load(table_ptr + first_block + index, mask=present, other=0)
        # A row before the cache is out of bounds, and what is out of bounds reads as zero.
        row = gl.where(present, block * step + first_row, -_BLOCK)
        low = target.slice(index * _BLOCK, _BLOCK, dim=0)
        high = target.slice(TILE_KEYS + index * _BLOCK, _BLOCK, dim=0)
        tma.async_copy_global_to_shared(descriptor, [row, 0], barrier, low)
        tma.async_copy_global_to_shared(descriptor, [row, TILE_SPAN], barrier, high)


@gluon.jit
def produce(
    descriptor, keys, values, full_keys, free_keys, full_values, free_values,
    table_ptr, num_tiles, num_blocks, kv_head, num_kv_heads: gl.constexpr,
):  # fmt: skip
    """Copy the tiles, last one first, as the consumers free their places."""
    step: gl.constexpr = 2 * num_kv_heads * _BLOCK
    first_key_row = kv_head * _BLOCK
    first_value_row = first_key_row + num_kv_heads * _BLOCK
    for index in range(num_tiles):
        stage = index % TILE_STAGES
        was_free = ((index // TILE_STAGES) & 1) ^ 1
        first_block = (num_tiles - 1 - index) * (TILE_KEYS // _BLOCK)
        mbarrier.wait(free_keys.index(stage), was_free)
        _copy_tile(
            descriptor, full_keys.index(stage), keys.index(stage), table_ptr, first_block,
            num_blocks, first_key_row, step,
        )  # fmt: skip
        mbarrier.wait(free_values.index(stage), was_free)
        _copy_tile(
            descriptor, full_values.index(stage), values.index(stage), table_ptr, first_block,
            num_blocks, first_value_row, step,
        )  # fmt: skip


@gluon.jit
def release(barrier):
    """Tell the producer that this consumer has read a place: all four warps, so wait for them."""
    meet()
    mbarrier.arrive(barrier, count=1)
