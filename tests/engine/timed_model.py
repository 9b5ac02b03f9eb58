"""A model on a clock that is told what each step takes."""

from collections.abc import Callable

from torch import Tensor

from engine.kernels import BatchInput
from engine.models import Model
from runtime.clock import VirtualClock


class TimedModel:
    """A model whose steps take what its tokens cost."""

    def __init__(self, model: Model, clock: VirtualClock, cost: Callable[[int], float]) -> None:
        self.config, self.device = model.config, model.device
        self._model, self._clock, self._cost = model, clock, cost

    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        self._clock.advance(self._cost(batch.num_tokens))
        return self._model.forward(batch, kv, on_layers)
