"""One tile of keys folded into an online softmax, shared by the attention kernels."""

import triton
import triton.language as tl

# A hidden score. It is finite, so that a tile without a visible key gives no NaN; what such a
# tile adds to a row vanishes when the row's first visible key rescales it.
HIDDEN = tl.constexpr(-1.0e30)


@triton.jit
def key_rows(table_ptr, keys, readable, num_kv_heads: tl.constexpr, block_size: tl.constexpr):
    """The cache row, in heads of one layer, where kv head 0 keeps the keys of these positions."""
    blocks = tl.load(table_ptr + keys // block_size, mask=readable, other=0).to(tl.int64)
    return blocks * (2 * num_kv_heads * block_size) + keys % block_size


@triton.jit
def fold(q, k, v, visible, scale, acc, total, peak, masked: tl.constexpr):
    """(acc, total, peak) of an online softmax in base 2, after one more tile of keys.

    q [rows, dim]; k, v [keys, dim]; visible [rows, keys]; scale = log2(e) / sqrt(head_dim).
    Source: FlashAttention-2 (arXiv 2307.08691), algorithm 1.
    """
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if masked:
        scores = tl.where(visible, scores * scale, HIDDEN)
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_peak[:, None])
    else:
        new_peak = tl.maximum(peak, tl.max(scores, axis=1) * scale)
        weights = tl.exp2(scores * scale - new_peak[:, None])
    shrink = tl.exp2(peak - new_peak)
    total = total * shrink + tl.sum(weights, axis=1)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    return acc, total, new_peak


@triton.jit
def fold_keys(
    q,
    positions,  # of q's rows
    acc,
    total,
    peak,
    kv_ptr,  # one layer's cache, at the kv head
    table_ptr,  # the sequence's blocks
    lowest,  # no key before it is read: its block may be gone
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
    """Fold the keys begin..end into the softmax, a tile a step.

    Without `masked` every row sees every key, and end - begin is a multiple of tile_keys.
    """
    # A tile's cache rows are looked up one step ahead. Looked up in the same step, they would
    # cost the compiler half of the tiles that it keeps on their way from memory.
    keys = begin + tl.arange(0, tile_keys)
    readable = (keys >= lowest) & (keys < end)
    following = key_rows(table_ptr, keys, readable, num_kv_heads, block_size)
    for start in tl.range(begin, end, tile_keys):
        pointers = kv_ptr + following[:, None] * head_dim + dims[None, :]
        keys = start + tl.arange(0, tile_keys)
        readable = (keys >= lowest) & (keys < end)
        ahead = keys + tile_keys
        following = key_rows(
            table_ptr, ahead, (ahead >= lowest) & (ahead < end), num_kv_heads, block_size
        )
        visible = readable[None, :] & (keys[None, :] <= positions[:, None])
        if has_window:
            visible = visible & (keys[None, :] > positions[:, None] - window)
        v_offset: tl.constexpr = num_kv_heads * block_size * head_dim
        if masked or head_dim != dims.shape[0]:
            wanted = readable[:, None] & (dims < head_dim)[None, :]
            k = tl.load(pointers, mask=wanted, other=0.0)
            v = tl.load(pointers + v_offset, mask=wanted, other=0.0)
        else:
            k = tl.load(pointers)
            v = tl.load(pointers + v_offset)
        k, v = k.to(q.dtype), v.to(q.dtype)  # of an fp8 cache
        acc, total, peak = fold(q, k, v, visible, scale, acc, total, peak, masked)
    return acc, total, peak
