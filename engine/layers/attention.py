"""The two kinds of attention: heads with keys of their own, and heads that share a latent."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels import BatchInput, HeadShape, KernelSet, Linear
from engine.kernels.latent import LatentHeads
from engine.kernels.rotary import rotate


@dataclass(frozen=True, slots=True)
class GroupedAttention:
    """Query heads in groups that share a key-value head."""

    kernels: KernelSet
    heads: HeadShape
    window: int | None
    qkv: Linear

    def __call__(self, x: Tensor, rope: Tensor, batch: BatchInput, layer_kv: Tensor) -> Tensor:
        """x [T, hidden], normalised -> [T, num_heads * head_dim]; keys and values are stored."""
        q = self.kernels.store_kv(self.qkv(x), self.heads, rope, batch, layer_kv)
        return self.kernels.attention(q, batch, layer_kv, self.window)


@dataclass(frozen=True, slots=True)
class LowRank:
    """A product through a narrower, normalised vector."""

    kernels: KernelSet
    down: Linear
    norm: Tensor  # [rank]
    up: Linear
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in_features] -> [T, out_features]"""
        return self.up(self.kernels.rms_norm(self.down(x), None, self.norm, self.eps)[0])


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention: the cache holds one vector a token for all heads."""

    kernels: KernelSet
    queries: Linear | LowRank
    latents: Linear  # a token's latent, then the key that all heads share
    norm: Tensor  # [rank]
    eps: float
    heads: LatentHeads

    def __call__(self, x: Tensor, rope: Tensor, batch: BatchInput, layer_kv: Tensor) -> Tensor:
        """x [T, hidden], normalised -> [T, num_heads * value_dim]; latents are stored."""
        both = self.latents(x)  # [T, rank + rope_dim]
        rank, plain_dim = self.heads.rank, self.heads.plain_dim
        latent, _ = self.kernels.rms_norm(both[:, :rank].contiguous(), None, self.norm, self.eps)
        self.kernels.latents.store(latent, both[:, rank:], rope, batch, layer_kv)
        q = self.queries(x).view(x.shape[0], self.heads.key_up.shape[0], -1)
        turned = rotate(q[..., plain_dim:], rope[batch.positions])
        q = torch.cat((q[..., :plain_dim], turned), dim=-1)
        return self.kernels.latents.attend(q, self.heads, batch, layer_kv)
