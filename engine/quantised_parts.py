"""The tensors that a quantised weight is stored as."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import ModelError
from engine.quant_config import QuantConfig

Shape = tuple[int, ...]


class StoredTensors(Protocol):
    """The tensors of a checkpoint as they are stored."""

    @property
    def index(self) -> Path:
        """What a tensor that is wrong is blamed on."""

    def __contains__(self, name: str) -> bool: ...

    def stored(self, name: str) -> Tensor:
        """The tensor of that name in its own dtype and shape. Raises ModelError."""

    def tensor(self, name: str, shape: Shape) -> Tensor:
        """The floating-point tensor of that name and shape. Raises ModelError."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The tensors of one linear layer."""

    config: QuantConfig
    source: StoredTensors
    module: str

    def has(self, kind: str) -> bool:
        return f"{self.module}.{kind}" in self.source

    def part(self, kind: str, shape: Shape, dtype: torch.dtype | None = None) -> Tensor:
        """Raises ModelError for another shape or dtype."""
        found = self.source.stored(f"{self.module}.{kind}")
        if tuple(found.shape) != shape:
            raise self.wrong(kind, f"has shape {tuple(found.shape)}, not {shape}")
        if dtype is not None and found.dtype != dtype:
            raise self.wrong(kind, f"has dtype {found.dtype}, not {dtype}")
        return found

    def wrong(self, kind: str, reason: str) -> ModelError:
        return ModelError(self.source.index, f"tensor '{self.module}.{kind}' {reason}")
