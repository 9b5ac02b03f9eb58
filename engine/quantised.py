"""Quantised weights of a checkpoint, multiplied out as they are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.integer_weights import read_integers
from engine.kernels.int4_linear import Int4Weight
from engine.quant_config import Packing, QuantConfig
from engine.quantised_parts import Parts, Shape, StoredTensors

INT4_BITS = 4
SCALES = ("weight_scale_inv", "weight_scale")  # both are multiplied with the values


@dataclass(frozen=True, slots=True)
class DequantisedTensors:
    """A checkpoint whose quantised weights are multiplied out in float32 and come in `dtype`.

    Which weights are quantised, their tensors tell: a layer that the tool left alone is read as it
    is.
    """

    config: QuantConfig
    source: StoredTensors
    dtype: torch.dtype
    keeps_int4: bool = False

    def tensor(self, name: str, shape: Shape) -> Tensor:
        """As the source's. Raises ModelError, naming the tensor, for parts that do not fit."""
        module, _, kind = name.rpartition(".")
        if kind == "weight":
            found = _READERS[self.config.packing](Parts(self.config, self.source, module), shape)
            if found is not None:
                return found.to(self.dtype)
        return self.source.tensor(name, shape)

    def int4(self, module: str, shape: Shape) -> Int4Weight | None:
        """That module's weight as it is stored, where it is int4 and to be kept so."""
        if not self.keeps_int4 or self.config.bits != INT4_BITS:
            return None
        found = read_integers(Parts(self.config, self.source, module), shape)
        if found is None:
            return None
        return Int4Weight.of(found.values, found.zeros, found.scales, found.group_of)

    def fp8_step(self, module: str) -> float | None:
        """What that module's scales are powers of two of, where its weight is in fp8: a scale that
        all share, 1 for blocks with such scales (DeepSeek-V3.1's), else 0. None: it is not."""
        kind = next((kind for kind in SCALES if f"{module}.{kind}" in self.source), None)
        if self.config.packing is not Packing.FP8 or kind is None:
            return None
        scales = self.source.stored(f"{module}.{kind}").float()
        if scales.numel() == 1:
            return float(scales)
        mantissas, _ = scales.frexp()
        return 1.0 if bool((mantissas == 0.5).all()) else 0.0


def _fp8(parts: Parts, shape: Shape) -> Tensor | None:
    kind = next((name for name in SCALES if parts.has(name)), None)
    if kind is None:
        return None
    scales = parts.source.stored(f"{parts.module}.{kind}").float()
    values = parts.part("weight", shape, torch.float8_e4m3fn).float()
    block = parts.config.block
    if block is not None and scales.dim() == 2:
        rows, columns = -(-shape[0] // block[0]), -(-shape[1] // block[1])
        if tuple(scales.shape) != (rows, columns):
            reason = f"has shape {tuple(scales.shape)}, not {(rows, columns)} for blocks of {block}"
            raise parts.wrong(kind, reason)
        wide = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
        return values * wide[: shape[0], : shape[1]]
    if scales.numel() not in (1, shape[0]):
        raise parts.wrong(kind, f"has {scales.numel()} scales for {shape[0]} outputs")
    return values * scales.view(-1, 1)


def _integers(parts: Parts, shape: Shape) -> Tensor | None:
    found = read_integers(parts, shape)
    return None if found is None else found.weight()


_READERS: Mapping[Packing, Callable[[Parts, Shape], Tensor | None]] = {
    Packing.FP8: _fp8,
    Packing.AWQ: _integers,
    Packing.GPTQ: _integers,
}
