"""What the engine needs of a model."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels import BatchInput


class ForwardModel(Protocol):
    """A model on one device, over a cache that is given with each step."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def device(self) -> torch.device: ...

    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        """Logits [L, vocab] float32 of the rows that the batch asks for.

        on_layers(n) is called when the keys and values of the first n layers are in the cache.
        """
        ...
