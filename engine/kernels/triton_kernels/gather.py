"""Copies whole blocks of every layer between the paged cache and one contiguous buffer."""

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK_WORDS = 4096


@triton.jit(do_not_specialize=["num_ids", "cache_blocks"])
def _copy_blocks(
    kv_ptr,
    buffer_ptr,
    ids_ptr,
    num_ids,
    cache_blocks,
    words: tl.constexpr,  # of one block in one layer
    to_buffer: tl.constexpr,
    chunk: tl.constexpr,
):
    index = tl.program_id(1).to(tl.int64)
    layer = tl.program_id(2).to(tl.int64)
    block = tl.load(ids_ptr + index).to(tl.int64)
    offsets = tl.program_id(0) * chunk + tl.arange(0, chunk)
    inside = (offsets < words) & (block >= 0)
    cached = kv_ptr + (layer * cache_blocks + block) * words + offsets
    packed = buffer_ptr + (layer * num_ids + index) * words + offsets
    if to_buffer:
        tl.store(packed, tl.load(cached, mask=inside, other=0), mask=offsets < words)
    else:
        tl.store(cached, tl.load(packed, mask=inside, other=0), mask=inside)


def gather_blocks(kv: Tensor, block_ids: Tensor) -> Tensor:
    """Copy blocks of kv [num_layers, num_blocks, 2, num_kv_heads, block_size, head_dim] out.

    `block_ids` is [n] int32 or int64 on kv's device. Returns the same shape with n blocks; those
    of a negative id are 0.
    """
    shape = (kv.shape[0], block_ids.shape[0], *kv.shape[2:])
    buffer = torch.empty(shape, dtype=kv.dtype, device=kv.device)
    _copy(kv, buffer, block_ids, to_buffer=True)
    return buffer


def scatter_blocks(buffer: Tensor, block_ids: Tensor, kv: Tensor) -> None:
    """Write what gather_blocks gave into the blocks of these ids; a negative id is left out."""
    _copy(kv, buffer, block_ids, to_buffer=False)


def _copy(kv: Tensor, buffer: Tensor, block_ids: Tensor, to_buffer: bool) -> None:
    words = kv[0, 0].numel() * kv.dtype.itemsize // 4
    if block_ids.numel() == 0:
        return
    _copy_blocks[(triton.cdiv(words, CHUNK_WORDS), block_ids.shape[0], kv.shape[0])](
        kv.view(torch.int32),
        buffer.view(torch.int32),
        block_ids,
        block_ids.shape[0],
        kv.shape[1],
        words=words,
        to_buffer=to_buffer,
        chunk=CHUNK_WORDS,
        num_warps=8,
    )
