"""Named tensors of a checkpoint as the parts that a layer is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.kernels import KernelSet, Linear, Weight
from engine.kernels.fp8_linear import Fp8Weight, fits_fp8
from engine.kernels.huge_pages import huge_empty
from engine.kernels.int4_linear import Int4Weight, stack_int4


class TensorSource(Protocol):
    """Where the tensors of a checkpoint come from, under the names that transformers gives them."""

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name and shape. Raises ModelError when there is none."""


@runtime_checkable
class Int4Source(Protocol):
    """A source that may hold weights in int4 for a device that keeps them so. One that slices or
    scales another's tensors is none, and gives plain ones."""

    def int4(self, module: str, shape: tuple[int, ...]) -> Int4Weight | None:
        """That module's weight; None where it is not in int4. Raises ModelError."""


Fp8Steps = Callable[[str], float | None]
"""Of a module's name: what the scales of its weight in fp8 are powers of two of; 0: of nothing;
None: the weight is not in fp8."""


@dataclass(frozen=True, slots=True)
class PartBuilder:
    """Reads named tensors and lays them out for a device."""

    config: ModelConfig
    source: TensorSource
    dtype: torch.dtype
    device: torch.device
    kernels: KernelSet
    in_fp8: Fp8Steps | None = None  # which weights the device keeps in fp8

    def vector(self, name: str, size: int) -> Tensor:
        return self.source.tensor(name, (size,)).to(self.device, self.dtype)

    def norm(self, name: str, size: int) -> Tensor:
        """The factors of a norm; Gemma stores them less one."""
        if self.config.gemma is None:
            return self.vector(name, size)
        return (self.source.tensor(name, (size,)).float() + 1.0).to(self.device, self.dtype)

    def linear(
        self,
        prefix: str,
        parts: Sequence[str],
        sizes: Sequence[int],
        in_features: int,
        bias: bool,
        rows: Tensor | None = None,
    ) -> Linear:
        """Fuse the projections `prefix.part` of these output sizes into one weight, its rows in
        that order."""
        names = [f"{prefix}.{part}" for part in parts]
        biases = [
            self.vector(f"{name}.bias", size)
            for name, size in zip(names, sizes, strict=True)
            if bias
        ]
        joined = torch.cat(biases) if biases else None
        if rows is not None and joined is not None:
            joined = joined[rows.to(self.device)]
        return self.kernels.linear(self._weight(names, sizes, in_features, rows), joined)

    def _weight(
        self, names: Sequence[str], sizes: Sequence[int], in_features: int, rows: Tensor | None
    ) -> Weight:
        """In the form that the device keeps it in."""
        int4 = self._int4(names, sizes, in_features)
        if int4 is not None:
            return (int4 if rows is None else int4.rows(rows)).to(self.device)
        weights = [
            self.source.tensor(f"{name}.weight", (size, in_features))
            for name, size in zip(names, sizes, strict=True)
        ]
        fused = stack(weights) if len(weights) > 1 else weights[0]
        steps = self._fp8_steps(names, sizes)
        if rows is not None:
            fused, steps = fused[rows], None if steps is None else steps[rows]
        if steps is not None and fits_fp8(fused):
            return Fp8Weight.of(fused.to(self.device), steps.to(self.device))
        return fused.to(self.device, self.dtype)

    def _int4(
        self, names: Sequence[str], sizes: Sequence[int], in_features: int
    ) -> Int4Weight | None:
        """Of these modules together; None when one of them is not kept in int4."""
        source = self.source
        if not isinstance(source, Int4Source):
            return None
        return stack_int4(
            [
                source.int4(name, (size, in_features))
                for name, size in zip(names, sizes, strict=True)
            ]
        )

    def _fp8_steps(self, names: Sequence[str], sizes: Sequence[int]) -> Tensor | None:
        """Of each output of these modules; None when one of them is not kept in fp8."""
        found = [None if self.in_fp8 is None else self.in_fp8(name) for name in names]
        steps = [
            torch.full((size,), step)
            for size, step in zip(sizes, found, strict=True)
            if step is not None
        ]
        return torch.cat(steps) if len(steps) == len(names) else None


def stack(weights: Sequence[Tensor]) -> Tensor:
    """The rows of all weights, in memory that goes back to the system when the result is dropped;
    a heap would keep what layers take in passing."""
    if weights[0].device.type != "cpu":
        return torch.cat(tuple(weights))
    rows = sum(weight.shape[0] for weight in weights)
    shape, dtype = (rows, weights[0].shape[1]), weights[0].dtype
    memory = huge_empty(rows * shape[1] * dtype.itemsize).view(dtype).view(shape)
    return torch.cat(tuple(weights), out=memory)
