"""Rank 0's view of a model that several processes compute: a model like any other."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels import BatchInput
from engine.layers.shard import Shard
from engine.models import Model
from engine.parallel.batch_message import pack


class RankLostError(Exception):
    """A process of those that compute the model has ended, so that no step can be computed."""


class Followers(Protocol):
    """The processes of the ranks above 0."""

    def send(self, message: bytes) -> None:
        """To every one of them. Raises RankLostError."""

    def end(self) -> None:
        """Ends them, because they and this rank no longer agree."""


class LeadingModel:
    """Hands each step to the followers and computes this rank's share of it.

    The cache is one for all ranks, of the whole model: each rank writes and reads its own heads.
    """

    def __init__(self, model: Model, shard: Shard, followers: Followers) -> None:
        self._model = model
        self._followers = followers
        self._heads = shard.kv_heads(model.config.num_kv_heads)

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        return self._model.dtype

    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        """As Model.forward, over the whole cache. Raises RankLostError, then and ever after, when
        a step could not be computed by all."""
        self._followers.send(pack(batch))
        try:
            return self._model.forward(batch, of_heads(kv, self._heads), on_layers)
        except RuntimeError as error:
            self._followers.end()
            raise RankLostError(f"the ranks computed no step: {error}") from error


def of_heads(kv: Tensor, heads: range) -> Tensor:
    """A run of the heads of a cache, without a copy."""
    return kv[:, :, :, heads.start : heads.stop]
