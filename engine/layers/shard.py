"""How the weights and heads of one model are divided among ranks, and what joins their parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels import Linear


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `size` equal shares. Ranks count from 0."""

    rank: int = 0
    size: int = 1

    @property
    def is_whole(self) -> bool:
        return self.size == 1

    def of(self, count: int) -> range:
        """This rank's share of `count` things, which `size` divides."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def kv_heads(self, count: int) -> range:
        """This rank's of `count` key-value heads. Of fewer heads than ranks each rank has one, and
        neighbours share it, as their query heads do."""
        if count >= self.size:
            return self.of(count)
        head = self.rank * count // self.size
        return range(head, head + 1)

    def padded(self, count: int) -> range:
        """This rank's of `count` rows in shares of one size, of which the last may end early."""
        each = -(-count // self.size)
        return range(min(self.rank * each, count), min((self.rank + 1) * each, count))


WHOLE = Shard()


def check_divides(config: ModelConfig, size: int) -> None:
    """Raises ValueError, naming the number, where `size` ranks cannot share the model."""
    moe, num_layers = config.moe, config.num_layers
    is_dense = any(config.experts_of(layer) is None for layer in range(num_layers))
    counts = {
        "attention heads": config.num_heads,
        "key-value heads": max(config.num_kv_heads, size),
        "columns of the feed-forward": config.intermediate_size if is_dense else 0,
        "experts": moe.num_experts if moe is not None else 0,
        "columns of the shared expert": moe.shared_size if moe is not None else 0,
    }
    for name, count in counts.items():
        if count % size:
            raise ValueError(f"tensor_parallel {size} does not divide the model's {count} {name}")
    if config.num_kv_heads < size and size % config.num_kv_heads:
        text = f"is no multiple of the model's {config.num_kv_heads} key-value heads"
        raise ValueError(f"tensor_parallel {size} {text}")


class Group(Protocol):
    """The ranks that compute one model together. Every rank makes the same calls in one order."""

    @property
    def shard(self) -> Shard:
        """Which rank this is, of how many."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks of x, of one shape everywhere, in x's memory. Returns when every
        rank has made the call."""

    def gather(self, x: Tensor) -> Sequence[Tensor]:
        """At rank 0 the x of every rank, of one shape everywhere; elsewhere nothing."""


@dataclass(frozen=True, slots=True)
class Summed:
    """A part of a layer of which each rank computes a summand."""

    part: Callable[[Tensor], Tensor]
    group: Group

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in_features] -> [T, out_features], the same at every rank."""
        return self.group.sum(self.part(x))


@dataclass(frozen=True, slots=True)
class GatheredHead:
    """The product with the vocabulary, of which each rank has as many rows."""

    part: Linear
    group: Group
    vocab_size: int

    def __call__(self, x: Tensor) -> Tensor:
        """[L, hidden] -> [L, vocab] float32 at rank 0; elsewhere [L, a share of it]."""
        if x.shape[0] == 0:
            return x.new_empty((0, self.vocab_size), dtype=torch.float32)
        own = self.part(x)
        parts = self.group.gather(own)
        return torch.cat(tuple(parts), dim=1)[:, : self.vocab_size].contiguous() if parts else own
