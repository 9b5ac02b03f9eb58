"""One decoder layer: attention over the paged cache, then the feed-forward."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels import BatchInput, KernelSet
from engine.layers.attention import GroupedAttention, LatentAttention


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The weights of one layer. A call keeps no state but what it writes into the cache."""

    kernels: KernelSet
    attention: GroupedAttention | LatentAttention
    rms_norm_eps: float
    input_norm: Tensor  # [hidden]
    out: Callable[[Tensor], Tensor]
    post_norm: Tensor  # [hidden]
    mlp: Callable[[Tensor], Tensor]
    after_attention: Tensor | None = None  # [hidden], a norm of what the attention adds
    after_mlp: Tensor | None = None  # [hidden], a norm of what the feed-forward adds

    def __call__(
        self,
        x: Tensor,
        residual: Tensor | None,
        rope: Tensor,
        batch: BatchInput,
        layer_kv: Tensor,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """x [T, hidden] and the residual before this layer -> the same after it.

        With `rows` [L] all T tokens are stored in the cache, and the rest is computed for L.
        """
        x, residual = self.kernels.rms_norm(x, residual, self.input_norm, self.rms_norm_eps)
        x = self.attention(x, rope, batch, layer_kv)
        if rows is not None:
            x, residual = x[rows], residual[rows]
        x = self.normed(self.out(x), self.after_attention)
        x, residual = self.kernels.rms_norm(x, residual, self.post_norm, self.rms_norm_eps)
        return self.normed(self.mlp(x), self.after_mlp), residual

    def normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """x [T, hidden], normalised where there is a weight."""
        if weight is None:
            return x
        return self.kernels.rms_norm(x, None, weight, self.rms_norm_eps)[0]


@dataclass(frozen=True, slots=True)
class Embedding:
    """The token table, [vocab, hidden]."""

    weight: Tensor
    dtype: torch.dtype
    scale: float | None = None

    def __call__(self, token_ids: Tensor) -> Tensor:
        """[T] -> [T, hidden]"""
        x = self.weight[token_ids].to(self.dtype)
        return x if self.scale is None else x * self.scale
