"""One tile of keys folded into an online softmax, shared by the attention kernels."""

import triton
import triton.language as tl

# A hidden score. It is finite, so that a tile without a visible key gives no NaN; what such a
# tile adds to a row vanishes when the row's first visible key rescales it.
HIDDEN = tl.constexpr(-1.0e30)


@triton.jit
def key_offsets(
    table_ptr,
    keys,
    readable,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_size: tl.constexpr,
):
    """Where in one layer's cache the keys of these positions start, for kv head 0."""
    blocks = tl.load(table_ptr + keys // block_size, mask=readable, other=0).to(tl.int64)
    rows = blocks * (2 * num_kv_heads * block_size) + keys % block_size
    return rows * head_dim


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
