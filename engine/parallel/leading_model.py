"""Rank 0's view of a model that several processes compute: a model like any other."""

import contextlib
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels import BatchInput
from engine.layers.shard import Shard
from engine.models import Model
from engine.parallel.batch_message import on_device, pack
from engine.parallel.rank_kv import RankKV, of_heads


class RankLostError(Exception):
    """A process of those that compute the model has ended, so that no step can be computed."""


class Followers(Protocol):
    """The processes of the ranks above 0."""

    def send(self, message: bytes) -> None:
        """To every one of them. Raises RankLostError."""

    def check(self) -> None:
        """Raises RankLostError when one of them has ended."""

    def end(self) -> None:
        """Ends them, because they and this rank no longer agree."""


class LeadingModel:
    """Hands each step to the followers and computes this rank's share of it.

    The cache is one for all ranks, of the whole model: each rank writes and reads its own heads,
    in the cache itself or, with `own`, in memory of its device.
    """

    def __init__(
        self, model: Model, shard: Shard, followers: Followers, own: RankKV | None = None
    ) -> None:
        self._model = model
        self._followers = followers
        self._own = own
        self._heads = shard.kv_heads(model.config.num_kv_heads)

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def device(self) -> torch.device:
        """Of a step's input, which goes to the others as bytes; logits are on rank 0's device."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return self._model.dtype

    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        """As Model.forward, over the whole cache. Raises RankLostError, then and ever after, when
        a step could not be computed by all."""
        self._followers.send(pack(batch))
        own = of_heads(kv, self._heads) if self._own is None else self._own.kv
        device = self._model.device
        try:
            with _current(device):
                logits = self._model.forward(on_device(batch, device), own, on_layers)
                if device.type == "cuda":
                    # Logits of a step that a rank was lost in are known for what they are here.
                    torch.cuda.current_stream(device).synchronize()
        except RuntimeError as error:
            self._followers.end()
            raise RankLostError(f"the ranks computed no step: {error}") from error
        self._followers.check()
        return logits


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Kernels are launched on the thread's current GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
