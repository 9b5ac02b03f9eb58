"""Attention over a cache of latents: what a device brings for it, and plain torch for any device.

`layer_kv` is one layer of such a cache, [num_blocks, 1, 1, block_size, rank + rope_dim]: of each
token the normalised latent, then the rotated key that all heads share.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.batch_input import BatchInput
from engine.kernels.rotary import rotate

TILE_BYTES = 32 << 20  # float32 scores, keys and values of the keys that are handled at a time


@dataclass(frozen=True, slots=True)
class LatentHeads:
    """What makes keys and values of a latent, and how scores are scaled."""

    key_up: Tensor  # [num_heads, plain_dim, rank]
    value_up: Tensor  # [num_heads, value_dim, rank]
    scale: float

    @property
    def rank(self) -> int:
        return self.key_up.shape[2]

    @property
    def plain_dim(self) -> int:
        return self.key_up.shape[1]

    @property
    def made_dim(self) -> int:
        """Elements of a head's key and value that are products of a latent."""
        return self.plain_dim + self.value_up.shape[1]

    def is_absorbed(self, num_queries: int) -> bool:
        """Whether so many queries cost less over latents than over keys and values made of them.

        For a token of context and a head, a query over latents costs 2 * rank products where one
        over keys and values costs made_dim, and making these costs rank times as many, once.
        """
        return num_queries * (2 * self.rank - self.made_dim) <= self.rank * self.made_dim

    def absorb(self, q: Tensor) -> Tensor:
        """Bring queries to the latents (arXiv 2405.04434, section 2.1.2).

        q [n, num_heads, plain_dim + rope_dim] -> [n, num_heads, rank + rope_dim]
        """
        plain, turned = q.tensor_split((self.plain_dim,), dim=-1)
        latent = torch.bmm(plain.transpose(0, 1), self.key_up).transpose(0, 1)
        return torch.cat((latent, turned), dim=-1)

    def lift(self, mixed: Tensor) -> Tensor:
        """Weighted latents [n, num_heads, rank] -> values [n, num_heads, value_dim]."""
        return torch.bmm(mixed.transpose(0, 1), self.value_up.transpose(1, 2)).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence of a batch, on the host."""

    number: int
    rows: range  # of T
    context: int

    @property
    def num_queries(self) -> int:
        return len(self.rows)

    @property
    def slice(self) -> slice:
        return slice(self.rows.start, self.rows.stop)


def sequence_spans(batch: BatchInput) -> list[Span]:
    """Every sequence of a batch; waits for the device."""
    starts, contexts = batch.query_start.tolist(), batch.context_len.tolist()
    return [
        Span(number, range(starts[number], starts[number + 1]), context)
        for number, context in enumerate(contexts)
    ]


class LatentKernels(Protocol):
    """The operators of attention over latents."""

    def store(
        self, latent: Tensor, key: Tensor, rope: Tensor, batch: BatchInput, layer_kv: Tensor
    ) -> None:
        """Store latent [T, rank] and, rotated, key [T, rope_dim] where the batch's slots say.

        `rope` is [max_positions, rope_dim] float32, a row's cosines and then its sines.
        """

    def attend(self, q: Tensor, heads: LatentHeads, batch: BatchInput, layer_kv: Tensor) -> Tensor:
        """Causal attention of rotated q [T, num_heads, plain_dim + rope_dim] over the cache.

        Returns [T, num_heads * value_dim].
        """


class ReferenceLatents:
    """Plain torch on any device. Sequences' lengths are read on the host."""

    def __init__(self) -> None:
        self._checked: BatchInput | None = None  # the step whose indices are known to be right

    def store(
        self, latent: Tensor, key: Tensor, rope: Tensor, batch: BatchInput, layer_kv: Tensor
    ) -> None:
        block_size = layer_kv.shape[3]
        if layer_kv.device.type == "cpu" and batch is not self._checked:
            batch.check_bounds(layer_kv.shape[0], block_size, rope.shape[0])
            self._checked = batch
        key = rotate(key.unsqueeze(1), rope[batch.positions]).squeeze(1)
        block, offset = batch.slots // block_size, batch.slots % block_size
        layer_kv[block, 0, 0, offset] = torch.cat((latent, key), dim=-1)

    def attend(self, q: Tensor, heads: LatentHeads, batch: BatchInput, layer_kv: Tensor) -> Tensor:
        spans = sequence_spans(batch)
        few = [span for span in spans if heads.is_absorbed(span.num_queries)]
        chosen = torch.tensor([row for span in few for row in span.rows], device=q.device).long()
        absorbed = q.new_empty(*q.shape[:2], layer_kv.shape[4])
        absorbed[chosen] = heads.absorb(q[chosen])
        out = q.new_empty(*q.shape[:2], heads.value_up.shape[1])
        out[chosen] = heads.lift(self._mix(absorbed, heads, batch, layer_kv, few)[chosen])
        for span in spans:
            if span not in few:
                cached = gather_latents(layer_kv, batch.block_tables[span.number], span.context)
                out[span.slice] = attend_expanded(q[span.slice], heads, cached)
        return out.flatten(1)

    def _mix(
        self,
        absorbed: Tensor,
        heads: LatentHeads,
        batch: BatchInput,
        layer_kv: Tensor,
        spans: Sequence[Span],
    ) -> Tensor:
        """The weighted latents of these sequences' rows of absorbed [T, num_heads, rank +
        rope_dim]: [T, num_heads, rank], no other row of which is written."""
        mixed = absorbed.new_empty(*absorbed.shape[:2], heads.rank)
        for span in spans:
            if span.num_queries:
                cached = gather_latents(layer_kv, batch.block_tables[span.number], span.context)
                mixed[span.slice] = attend_absorbed(absorbed[span.slice], heads, cached)
        return mixed


def gather_latents(layer_kv: Tensor, table: Tensor, context: int) -> Tensor:
    """Copy a sequence's cache out: [context, rank + rope_dim]."""
    blocks = table[: -(-context // layer_kv.shape[3])].long()
    return layer_kv[blocks, 0, 0].flatten(0, 1)[:context]


def attend_absorbed(q: Tensor, heads: LatentHeads, cached: Tensor) -> Tensor:
    """The last n tokens of a sequence, brought to the latents, over its cache: all heads share
    one key, whose first `rank` elements are also the value.

    q [n, num_heads, rank + rope_dim], cached [context, rank + rope_dim] -> [n, num_heads, rank]
    """

    def tiles(num_keys: int) -> Iterator[tuple[Tensor, Tensor]]:
        for tile in torch.split(cached, num_keys):
            keys = tile.float()
            yield keys, keys[:, : heads.rank]

    return _softmax_attention(q, tiles(_tile_keys(q, heads, cached)), heads.scale, len(cached))


def attend_expanded(q: Tensor, heads: LatentHeads, cached: Tensor) -> Tensor:
    """The last n tokens of a sequence over the keys and values made of its cache.

    q [n, num_heads, plain_dim + rope_dim] -> [n, num_heads, value_dim]
    """

    def tiles(num_keys: int) -> Iterator[tuple[Tensor, Tensor]]:
        for tile in torch.split(cached, num_keys):
            latents, shared = tile.tensor_split((heads.rank,), dim=-1)
            plain = _made(latents, heads.key_up)
            keys = torch.cat((plain, shared.expand(plain.shape[0], -1, -1)), dim=-1)
            yield keys.float(), _made(latents, heads.value_up).float()

    return _softmax_attention(q, tiles(_tile_keys(q, heads, cached)), heads.scale, len(cached))


def _made(latents: Tensor, up: Tensor) -> Tensor:
    """latents [keys, rank] through up [num_heads, size, rank]: [num_heads, keys, size]; in one
    product, which is twice as fast as one a head."""
    made = functional.linear(latents, up.flatten(0, 1))
    return made.view(-1, *up.shape[:2]).transpose(0, 1)


def _tile_keys(q: Tensor, heads: LatentHeads, cached: Tensor) -> int:
    """How many keys at a time keep scores, keys and values below TILE_BYTES."""
    of_a_head = 2 * q.shape[0] + heads.made_dim + cached.shape[1]
    return max(16, TILE_BYTES // (4 * q.shape[1] * of_a_head))


def _softmax_attention(
    q: Tensor, tiles: Iterator[tuple[Tensor, Tensor]], scale: float, context: int
) -> Tensor:
    """The last n tokens of a sequence over its keys and values, which come a tile at a time, each
    [keys, dim] or [num_heads, keys, dim] in float32; FlashAttention's online softmax.

    q [n, num_heads, key_dim] -> [n, num_heads, value_dim]
    """
    wide = (q.float() * scale).transpose(0, 1).contiguous()
    last = torch.arange(context - q.shape[0], context, device=q.device).unsqueeze(1)
    peak = wide.new_full((*wide.shape[:2], 1), -torch.inf)
    total, summed, first = torch.zeros_like(peak), torch.zeros_like(peak), 0
    for keys, values in tiles:
        positions = torch.arange(first, first + keys.shape[-2], device=q.device)
        scores = _product(wide, keys.transpose(-1, -2)).masked_fill_(positions > last, -torch.inf)
        new_peak = torch.maximum(peak, scores.amax(-1, keepdim=True))
        weights = scores.sub_(new_peak).exp_()
        shrink = (peak - new_peak).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        summed = summed * shrink + _product(weights, values)
        peak, first = new_peak, first + keys.shape[-2]
    return (summed / total).transpose(0, 1).to(q.dtype)


def _product(rows: Tensor, other: Tensor) -> Tensor:
    """rows [num_heads, n, size] times other [num_heads, size, m], or [size, m] for all heads; in
    one product then, where torch would multiply head by head."""
    if other.dim() == rows.dim():
        return rows @ other
    return (rows.flatten(0, 1) @ other).view(*rows.shape[:2], -1)
