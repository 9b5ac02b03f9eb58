"""Absorbed attention of single tokens over a cache of latents, split along the keys and reduced
after. All query heads share one key, whose first `rank` elements are also the value, so that a
tile of latents is read once for both products."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.batch_input import BatchInput
from engine.kernels.latent import (
    LatentHeads,
    ReferenceLatents,
    Span,
    attend_absorbed,
    gather_latents,
)
from engine.kernels.triton_kernels.chain import chain_options, wait_for_inputs
from engine.kernels.triton_kernels.decode_attention import MIN_SPLIT_TOKENS, choose_splits
from engine.kernels.triton_kernels.softmax_step import HIDDEN
from engine.kernels.triton_kernels.split_reduction import reduce_splits, split_tokens
from engine.kernels.triton_kernels.tile import (
    Tile,
    next_power_of_2,
    num_processors,
    padded_dim,
)

LOG2_E = 1.4426950408889634


@triton.jit
def _fold_latents(
    latent_q,
    turned_q,
    kv_ptr,
    table_ptr,  # the sequence's blocks
    begin,
    end,
    scale,
    dims,
    turns,
    rank: tl.constexpr,
    rope_dim: tl.constexpr,
    block_size: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_keys: tl.constexpr,
):
    """The weighted latents of the keys begin..end, their weights' sum and the peak of the scores.

    latent_q [rows, rank] and turned_q [rows, rope_dim], padded. An online softmax in base 2
    (FlashAttention-2, arXiv 2307.08691, algorithm 1).
    """
    acc = tl.zeros((tile_rows, dims.shape[0]), tl.float32)
    total = tl.zeros((tile_rows,), tl.float32)
    peak = tl.full((tile_rows,), HIDDEN, tl.float32)
    for start in tl.range(begin, end, tile_keys):
        keys = start + tl.arange(0, tile_keys)
        there = keys < end
        blocks = tl.load(table_ptr + keys // block_size, mask=there, other=0).to(tl.int64)
        cached = kv_ptr + (blocks * block_size + keys % block_size)[:, None] * (rank + rope_dim)
        wanted = there[:, None] & (dims < rank)[None, :]
        latents = tl.load(cached + dims[None, :], mask=wanted, other=0.0)
        wanted = there[:, None] & (turns < rope_dim)[None, :]
        turned = tl.load(cached + rank + turns[None, :], mask=wanted, other=0.0)
        scores = tl.dot(latent_q, tl.trans(latents), input_precision="ieee")
        scores = tl.dot(turned_q, tl.trans(turned), scores, input_precision="ieee")
        scores = tl.where(there[None, :], scores * scale, HIDDEN)
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_peak[:, None])
        shrink = tl.exp2(peak - new_peak)
        total = total * shrink + tl.sum(weights, axis=1)
        acc = tl.dot(
            weights.to(latents.dtype), latents, acc * shrink[:, None], input_precision="ieee"
        )
        peak = new_peak
    return acc, total, peak


@triton.jit(do_not_specialize=["num_splits"])
def _latent_decode(
    q_ptr,  # [T, num_heads, rank + rope_dim]
    kv_ptr,  # [num_blocks, 1, 1, block_size, rank + rope_dim]
    tables_ptr,
    query_start_ptr,
    context_ptr,
    out_ptr,  # [T, num_heads, rank], or float32 [S, num_splits, num_heads, rank]
    weight_ptr,  # float32 [S, num_splits, num_heads], log2 of each split's sum
    scale,
    table_width,
    num_splits,
    num_heads: tl.constexpr,
    rank: tl.constexpr,
    rope_dim: tl.constexpr,
    block_size: tl.constexpr,
    is_split: tl.constexpr,
    rank_padded: tl.constexpr,
    rope_padded: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_keys: tl.constexpr,
    min_tokens: tl.constexpr,
    chained: tl.constexpr,
):
    wait_for_inputs(chained)
    width: tl.constexpr = rank + rope_dim
    split = tl.program_id(0)
    sequence = tl.program_id(2).to(tl.int64)
    token = tl.load(query_start_ptr + sequence)
    num_queries = tl.load(query_start_ptr + sequence + 1) - token
    context = tl.load(context_ptr + sequence)
    share = split_tokens(context, num_splits, tile_keys, min_tokens)
    begin = split * share
    end = tl.minimum(begin + share, context)
    if (num_queries == 1) & ((begin < end) | (split == 0)):
        heads = tl.program_id(1) * tile_rows + tl.arange(0, tile_rows)
        dims = tl.arange(0, rank_padded)
        turns = tl.arange(0, rope_padded)
        is_head = (heads < num_heads)[:, None]
        row = q_ptr + token.to(tl.int64) * num_heads * width + heads[:, None] * width
        latent_q = tl.load(row + dims[None, :], mask=is_head & (dims < rank)[None, :], other=0.0)
        turned_q = tl.load(
            row + rank + turns[None, :], mask=is_head & (turns < rope_dim)[None, :], other=0.0
        )
        acc, total, peak = _fold_latents(
            latent_q, turned_q, kv_ptr, tables_ptr + sequence * table_width, begin, end, scale,
            dims, turns, rank, rope_dim, block_size, tile_rows, tile_keys,
        )  # fmt: skip
        # A padding sequence has no context: its total is 0 and its output 0.
        safe = tl.where(total > 0.0, total, 1.0)
        out = acc / safe[:, None]
        inside = is_head & (dims < rank)[None, :]
        offsets = heads[:, None] * rank + dims[None, :]
        if is_split:
            place = (sequence * num_splits + split) * num_heads
            tl.store(out_ptr + place * rank + offsets, out, mask=inside)
            tl.store(weight_ptr + place + heads, peak + tl.log2(safe), mask=heads < num_heads)
        else:
            target = out_ptr + token.to(tl.int64) * num_heads * rank
            tl.store(target + offsets, out.to(latent_q.dtype), mask=inside)


def tile_for(num_heads: int, dtype: torch.dtype) -> Tile:
    """A tile whose sums fit the registers of a program at rank 512. A matrix product takes 16 rows
    at least; the heads beyond one tile's read the latents again, from the L2 cache."""
    rows = min(64, max(16, next_power_of_2(num_heads)))
    if dtype == torch.float32:
        return Tile(rows=16, keys=16, warps=4, stages=1)
    return Tile(rows=rows, keys=32, warps=8 if rows > 16 else 4, stages=2)


def latent_decode(
    q: Tensor, rank: int, scale: float, batch: BatchInput, layer_kv: Tensor, num_processors: int
) -> Tensor:
    """Attend from q [T, num_heads, rank + rope_dim] of the sequences that give one token.

    Returns [T, num_heads, rank], of which their rows are written and no others. Nothing waits for
    the device. A sequence whose context is 0 pads the batch: its row becomes 0.
    """
    num_tokens, num_heads, width = q.shape
    block_size, num_sequences = layer_kv.shape[3], batch.num_sequences
    tile = tile_for(num_heads, q.dtype)
    num_tiles = -(-num_heads // tile.rows)
    max_context = batch.block_tables.shape[1] * block_size
    splits = choose_splits(num_sequences * num_tiles, max_context, num_processors)
    out = q.new_empty(num_tokens, num_heads, rank)
    shape = (num_sequences, splits, num_heads, rank)
    partial = torch.empty(shape, dtype=torch.float32, device=q.device) if splits > 1 else out
    weights = torch.empty(shape[:3], dtype=torch.float32, device=q.device)
    common = {"num_heads": num_heads, "tile_keys": tile.keys, "min_tokens": MIN_SPLIT_TOKENS}
    _latent_decode[(splits, num_tiles, num_sequences)](
        q,
        layer_kv,
        batch.block_tables,
        batch.query_start,
        batch.context_len,
        partial,
        weights,
        scale * LOG2_E,
        batch.block_tables.stride(0),
        splits,
        rank=rank,
        rope_dim=width - rank,
        block_size=block_size,
        is_split=splits > 1,
        rank_padded=padded_dim(rank),
        rope_padded=padded_dim(width - rank),
        tile_rows=tile.rows,
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
            0,
            splits,
            head_dim=rank,
            has_window=False,
            dim_padded=padded_dim(rank),
            splits_padded=next_power_of_2(splits),
            num_warps=4,
            **common,
            **chain_options(q.device),
        )
    return out


class TritonLatents(ReferenceLatents):
    """The kernel for sequences that give one token; torch's products for the others."""

    def attend(self, q: Tensor, heads: LatentHeads, batch: BatchInput, layer_kv: Tensor) -> Tensor:
        if batch.num_tokens > batch.num_sequences:
            return super().attend(q, heads, batch, layer_kv)
        mixed = self._decode(heads.absorb(q), heads, batch, layer_kv)
        return heads.lift(mixed).flatten(1)

    def _mix(
        self,
        absorbed: Tensor,
        heads: LatentHeads,
        batch: BatchInput,
        layer_kv: Tensor,
        spans: Sequence[Span],
    ) -> Tensor:
        mixed = self._decode(absorbed, heads, batch, layer_kv)
        for span in spans:
            if span.num_queries > 1:
                cached = gather_latents(layer_kv, batch.block_tables[span.number], span.context)
                mixed[span.slice] = attend_absorbed(absorbed[span.slice], heads, cached)
        return mixed

    def _decode(
        self, absorbed: Tensor, heads: LatentHeads, batch: BatchInput, layer_kv: Tensor
    ) -> Tensor:
        processors = num_processors(absorbed.device)
        return latent_decode(absorbed, heads.rank, heads.scale, batch, layer_kv, processors)
