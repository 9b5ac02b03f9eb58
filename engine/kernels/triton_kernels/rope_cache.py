"""QK-norm, rotary encoding and the write into the paged cache, in one pass over the projection."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.batch_input import BatchInput
from engine.kernels.kernel_set import HeadShape
from engine.kernels.triton_kernels.chain import chain_options, wait_for_inputs
from engine.kernels.triton_kernels.tile import next_power_of_2


@triton.jit
def _rotated(
    source,  # the first head's first element
    norm_ptr,
    cos,
    sin,
    heads,
    halves,
    inside,
    eps,
    head_dim: tl.constexpr,
    has_norm: tl.constexpr,
):
    """Both halves of each head, normalised and rotated, in the source's dtype."""
    offsets = heads[:, None] * head_dim + halves[None, :]
    low = tl.load(source + offsets, mask=inside, other=0.0)
    high = tl.load(source + head_dim // 2 + offsets, mask=inside, other=0.0)
    dtype = low.dtype
    low, high = low.to(tl.float32), high.to(tl.float32)
    if has_norm:
        squares = tl.sum(low * low + high * high, axis=1) / head_dim
        scale = (1.0 / tl.sqrt(squares + eps))[:, None]
        real = halves < head_dim // 2
        low_weight = tl.load(norm_ptr + halves, mask=real, other=0.0).to(tl.float32)
        high_weight = tl.load(norm_ptr + head_dim // 2 + halves, mask=real, other=0.0)
        # Rounded between the norm and the rotation, as the twin does.
        low = (low * scale * low_weight[None, :]).to(dtype).to(tl.float32)
        high = (high * scale * high_weight.to(tl.float32)[None, :]).to(dtype).to(tl.float32)
    turned_low = low * cos[None, :] - high * sin[None, :]
    turned_high = high * cos[None, :] + low * sin[None, :]
    return turned_low.to(dtype), turned_high.to(dtype)


@triton.jit
def _narrow(x, kv_ptr):
    """What the cache holds of x; fp8 cannot hold more than 448."""
    if kv_ptr.dtype.element_ty == tl.float8e4nv:
        x = tl.minimum(tl.maximum(x.to(tl.float32), -448.0), 448.0)
    return x.to(kv_ptr.dtype.element_ty)


@triton.jit
def _store_cached(
    source,  # the token's first key
    norm_ptr,
    cos,
    sin,
    halves,
    slot,
    kv_ptr,
    eps,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_size: tl.constexpr,
    has_norm: tl.constexpr,
    heads_padded: tl.constexpr,
):
    """Write the rotated keys and the values of one token into its slot."""
    half: tl.constexpr = head_dim // 2
    heads = tl.arange(0, heads_padded)
    inside = (heads < num_kv_heads)[:, None] & (halves < half)[None, :]
    low, high = _rotated(source, norm_ptr, cos, sin, heads, halves, inside, eps, head_dim, has_norm)
    row = (slot // block_size) * (2 * num_kv_heads * block_size) + slot % block_size
    places = heads[:, None] * (block_size * head_dim) + halves[None, :]
    cached = kv_ptr + row * head_dim + places
    tl.store(cached, _narrow(low, kv_ptr), mask=inside)
    tl.store(cached + half, _narrow(high, kv_ptr), mask=inside)
    values = source + num_kv_heads * head_dim + heads[:, None] * head_dim + halves[None, :]
    cached += num_kv_heads * block_size * head_dim
    tl.store(cached, _narrow(tl.load(values, mask=inside), kv_ptr), mask=inside)
    tl.store(cached + half, _narrow(tl.load(values + half, mask=inside), kv_ptr), mask=inside)


@triton.jit
def _store_kv(
    qkv_ptr,
    q_norm_ptr,
    k_norm_ptr,
    rope_ptr,
    positions_ptr,
    slots_ptr,
    q_ptr,
    kv_ptr,
    eps,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    block_size: tl.constexpr,
    has_norm: tl.constexpr,
    heads_padded: tl.constexpr,
    kv_heads_padded: tl.constexpr,
    half_padded: tl.constexpr,
    chained: tl.constexpr,
):
    wait_for_inputs(chained)
    token = tl.program_id(0).to(tl.int64)
    half: tl.constexpr = head_dim // 2
    halves = tl.arange(0, half_padded)
    angles = rope_ptr + tl.load(positions_ptr + token) * head_dim + halves
    cos = tl.load(angles, mask=halves < half, other=0.0)
    sin = tl.load(angles + half, mask=halves < half, other=0.0)
    source = qkv_ptr + token * ((num_heads + 2 * num_kv_heads) * head_dim)

    heads = tl.arange(0, heads_padded)
    inside = (heads < num_heads)[:, None] & (halves < half)[None, :]
    low, high = _rotated(
        source, q_norm_ptr, cos, sin, heads, halves, inside, eps, head_dim, has_norm
    )
    target = q_ptr + token * num_heads * head_dim + heads[:, None] * head_dim + halves[None, :]
    tl.store(target, low, mask=inside)
    tl.store(target + half, high, mask=inside)

    slot = tl.load(slots_ptr + token)
    if slot >= 0:  # a padding token has no slot
        _store_cached(
            source + num_heads * head_dim, k_norm_ptr, cos, sin, halves, slot, kv_ptr, eps,
            num_kv_heads, head_dim, block_size, has_norm, kv_heads_padded,
        )  # fmt: skip


def store_kv(
    qkv: Tensor, heads: HeadShape, rope: Tensor, batch: BatchInput, layer_kv: Tensor
) -> Tensor:
    """Write k and v of qkv [T, (heads + 2 kv_heads) * head_dim] where their slots say.

    A token whose slot is negative is not stored. Returns q [T, num_heads, head_dim].
    """
    num_tokens = qkv.shape[0]
    q = torch.empty(
        (num_tokens, heads.num_heads, heads.head_dim), dtype=qkv.dtype, device=qkv.device
    )
    if num_tokens:
        _store_kv[(num_tokens,)](
            qkv,
            qkv if heads.q_norm is None else heads.q_norm,
            qkv if heads.k_norm is None else heads.k_norm,
            rope,
            batch.positions,
            batch.slots,
            q,
            layer_kv,
            heads.rms_norm_eps,
            num_heads=heads.num_heads,
            num_kv_heads=heads.num_kv_heads,
            head_dim=heads.head_dim,
            block_size=layer_kv.shape[3],
            has_norm=heads.q_norm is not None and heads.k_norm is not None,
            heads_padded=next_power_of_2(heads.num_heads),
            kv_heads_padded=next_power_of_2(heads.num_kv_heads),
            half_padded=next_power_of_2(heads.head_dim // 2),
            num_warps=4,
            **chain_options(qkv.device),
        )
    return q
