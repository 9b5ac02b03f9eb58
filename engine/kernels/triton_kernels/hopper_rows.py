"""What a group of four warps does with its rows of queries, tile after tile of keys."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from engine.kernels.triton_kernels.hopper_tiles import (
    KEYS,
    TILE_DIM,
    TILE_KEYS,
    TILE_STAGES,
    meet,
    release,
)

ROWS = gl.constexpr(64)
SHARED = gl.constexpr(gl.NVMMASharedLayout(128, 16, 2))
_HIDDEN = gl.constexpr(-1.0e30)
_SCORES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16]))
_QUERIES = gl.constexpr(gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0]))


@gluon.jit
def _start_scores(queries, keys, full_keys, index):
    """Start the product of the queries with a tile of keys."""
    stage = index % TILE_STAGES
    mbarrier.wait(full_keys.index(stage), (index // TILE_STAGES) & 1)
    tile = keys.index(stage)._reinterpret(gl.bfloat16, [TILE_KEYS, TILE_DIM], SHARED)
    empty = gl.zeros([ROWS, TILE_KEYS], gl.float32, _SCORES)
    return warpgroup_mma(queries, tile.permute((1, 0)), empty, use_acc=False, is_async=True)


@gluon.jit
def _start_values(weights, values, full_values, index, acc):
    """Start adding the weighted values of a tile to acc."""
    stage = index % TILE_STAGES
    mbarrier.wait(full_values.index(stage), (index // TILE_STAGES) & 1)
    tile = values.index(stage)._reinterpret(gl.bfloat16, [TILE_KEYS, TILE_DIM], SHARED)
    return warpgroup_mma(weights, tile, acc, is_async=True)


@gluon.jit
def _softmax(scores, total, peak, positions, first_key, scale, masked: gl.constexpr):
    """(weights, total, peak, shrink): shrink is what acc is still to be multiplied with."""
    if masked:
        keys = first_key + gl.arange(0, TILE_KEYS, layout=gl.SliceLayout(0, _SCORES))
        scores = gl.where(keys[None, :] <= positions[:, None], scores * scale, _HIDDEN)
        new_peak = gl.maximum(peak, gl.max(scores, axis=1))
        weights = gl.exp2(scores - new_peak[:, None])
    else:
        new_peak = gl.maximum(peak, gl.max(scores, axis=1) * scale)
        weights = gl.exp2(scores * scale - new_peak[:, None])
    shrink = gl.exp2(peak - new_peak)
    total = total * shrink + gl.sum(weights, axis=1)
    operand: gl.constexpr = gl.DotOperandLayout(0, _SCORES, 2)
    narrow = gl.convert_layout(weights.to(gl.bfloat16), operand)
    return narrow, total, new_peak, shrink


@gluon.jit
def _clear_values(values, full_values, num_valid):
    """Zero the values of the last tile from num_valid on: nothing was ever stored there."""
    mbarrier.wait(full_values.index(0), 0)
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    rows = gl.arange(0, 2 * TILE_KEYS, layout=gl.SliceLayout(1, layout)) % TILE_KEYS
    tile = values.index(0).load(layout)
    values.index(0).store(gl.where((rows < num_valid)[:, None], tile, 0.0))
    fence_async_shared()
    meet()


@gluon.jit
def _fold_tiles(
    queries, keys, values, full_keys, free_keys, full_values, free_values,
    weights, acc, total, peak, positions, scale, begin, end, num_tiles, masked: gl.constexpr,
):  # fmt: skip
    """Fold tiles begin..end (counted from the last one back); weights are those of begin - 1."""
    for index in range(begin, end):
        scores = _start_scores(queries, keys, full_keys, index)
        adding = _start_values(weights, values, full_values, index - 1, acc)
        scores = warpgroup_mma_wait(1, deps=[scores])
        release(free_keys.index(index % TILE_STAGES))
        weights, total, peak, shrink = _softmax(
            scores, total, peak, positions, (num_tiles - 1 - index) * TILE_KEYS, scale, masked
        )
        acc = warpgroup_mma_wait(0, deps=[adding])
        release(free_values.index((index - 1) % TILE_STAGES))
        acc = acc * shrink[:, None]
    return weights, acc, total, peak


@gluon.jit
def consume(
    q_ptr, out_ptr, queries, keys, values, full_keys, free_keys, full_values, free_values,
    start, first, num_queries, context, kv_head, num_tiles, num_full, scale,
    half: gl.constexpr, num_heads: gl.constexpr, group: gl.constexpr,
):  # fmt: skip
    """Attend from the rows of one half of the program, write their outputs."""
    rows = half * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, _QUERIES))
    tokens = first + rows // group
    dims = gl.arange(0, TILE_DIM, layout=gl.SliceLayout(0, _QUERIES))
    offsets = (start + tokens).to(gl.int64) * num_heads + kv_head * group + rows % group
    offsets = offsets[:, None] * TILE_DIM + dims[None, :]
    inside = (tokens < num_queries)[:, None] & (dims < TILE_DIM)[None, :]
    queries.store(gl.load(q_ptr + offsets, mask=inside, other=0.0))
    fence_async_shared()
    meet()

    rows = half * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, _SCORES))
    positions = context - num_queries + first + rows // group
    acc = gl.zeros([ROWS, TILE_DIM], gl.float32, _SCORES)
    total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, _SCORES))
    peak = gl.full([ROWS], _HIDDEN, gl.float32, gl.SliceLayout(1, _SCORES))
    last_key = (num_tiles - 1) * TILE_KEYS
    scores = _start_scores(queries, keys, full_keys, 0)
    scores = warpgroup_mma_wait(0, deps=[scores])
    release(free_keys.index(0))
    if context < last_key + TILE_KEYS:
        _clear_values(values, full_values, context - last_key)
    weights, total, peak, shrink = _softmax(scores, total, peak, positions, last_key, scale, True)
    num_masked = gl.maximum(num_tiles - num_full, 1)
    weights, acc, total, peak = _fold_tiles(
        queries, keys, values, full_keys, free_keys, full_values, free_values,
        weights, acc, total, peak, positions, scale, 1, num_masked, num_tiles, True,
    )  # fmt: skip
    weights, acc, total, peak = _fold_tiles(
        queries, keys, values, full_keys, free_keys, full_values, free_values,
        weights, acc, total, peak, positions, scale, num_masked, num_tiles, num_tiles, False,
    )  # fmt: skip
    adding = _start_values(weights, values, full_values, num_tiles - 1, acc)
    acc = warpgroup_mma_wait(0, deps=[adding])
    out = (acc / total[:, None]).to(gl.bfloat16)
    gl.store(out_ptr + offsets, gl.convert_layout(out, _QUERIES), mask=inside)
