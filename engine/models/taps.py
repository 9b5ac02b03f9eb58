"""Where a model leaves the states between some of its layers for whoever asked for them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Taps:
    """The residual stream in front of `layers`, of the model's last forward pass.

    A forward pass fills `states`; whoever built the model with these taps takes them before the
    next one.
    """

    layers: tuple[int, ...]
    states: Tensor | None = None  # [T, num_taps * hidden]

    def pass_by(self, layer: int, x: Tensor, residual: Tensor | None) -> None:
        """x [T, hidden] and the residual in front of a layer, which it may change."""
        if layer == 0:
            self.states = x.new_empty(x.shape[0], len(self.layers) * x.shape[1])
        for place, tapped in enumerate(self.layers):
            if tapped == layer and self.states is not None:
                part = self.states.view(x.shape[0], len(self.layers), -1)[:, place]
                part.copy_(x) if residual is None else torch.add(x, residual, out=part)

    def take(self) -> Tensor | None:
        """The states, which are then forgotten here."""
        states, self.states = self.states, None
        return states
