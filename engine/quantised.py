"""Quantised weights of a checkpoint, multiplied out as they are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import ModelError
from engine.quant_config import Packing, QuantConfig

WORD_BITS = 32
PLAIN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # which four bits of a word hold each of its eight outputs
SCALES = ("weight_scale_inv", "weight_scale")  # both are multiplied with the values
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
class DequantisedTensors:
    """A checkpoint whose quantised weights are multiplied out in float32 and come in `dtype`.

    Which weights are quantised, their tensors tell: a layer that the tool left alone is read as it
    is.
    """

    config: QuantConfig
    source: StoredTensors
    dtype: torch.dtype

    def tensor(self, name: str, shape: Shape) -> Tensor:
        """As the source's. Raises ModelError, naming the tensor, for parts that do not fit."""
        module, _, kind = name.rpartition(".")
        if kind == "weight":
            found = _READERS[self.config.packing](_Parts(self.config, self.source, module), shape)
            if found is not None:
                return found.to(self.dtype)
        return self.source.tensor(name, shape)

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


@dataclass(frozen=True, slots=True)
class _Parts:
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

    def num_groups(self, in_features: int) -> int:
        return -(-in_features // (self.config.group_size or in_features))

    def zero_points(self, shape: Shape, order: tuple[int, ...]) -> Tensor:
        """[groups, out_features], as the integers they are compared with."""
        bits = self.config.bits
        words = self.part("qzeros", (shape[0], shape[1] * bits // WORD_BITS), torch.int32)
        zeros = unpack(words, bits, order).flatten(1) + self.config.zero_offset
        return zeros & ((1 << bits) - 1)


def unpack(words: Tensor, bits: int, order: tuple[int, ...] = PLAIN_ORDER) -> Tensor:
    """The unsigned integers of each word, in that order: int32 [...] -> [..., 32 / bits]."""
    shifts = torch.tensor(order[: WORD_BITS // bits], dtype=torch.int32) * bits
    return (words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)


def _fp8(parts: _Parts, shape: Shape) -> Tensor | None:
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


def _awq(parts: _Parts, shape: Shape) -> Tensor | None:
    """AutoAWQ's "gemm" packing."""
    if not parts.has("qweight"):
        return None
    (outputs, inputs), bits = shape, parts.config.bits
    groups = parts.num_groups(inputs)
    words = parts.part("qweight", (inputs, outputs * bits // WORD_BITS), torch.int32)
    values = unpack(words, bits, AWQ_ORDER).flatten(1)  # [in_features, out_features]
    group_of = torch.arange(inputs) // -(-inputs // groups)
    return _scaled(parts, values, group_of, parts.zero_points((groups, outputs), AWQ_ORDER))


def _gptq(parts: _Parts, shape: Shape) -> Tensor | None:
    """AutoGPTQ's packing; a checkpoint may give each input a group of its own choice."""
    if not parts.has("qweight"):
        return None
    (outputs, inputs), bits = shape, parts.config.bits
    groups = parts.num_groups(inputs)
    words = parts.part("qweight", (inputs * bits // WORD_BITS, outputs), torch.int32)
    values = unpack(words, bits).transpose(1, 2).flatten(0, 1)  # [in_features, out_features]
    group_of = torch.arange(inputs) // (parts.config.group_size or inputs)
    if parts.has("g_idx"):
        group_of = parts.part("g_idx", (inputs,), torch.int32).long()
        if int(group_of.min()) < 0 or int(group_of.max()) >= groups:
            raise parts.wrong("g_idx", f"names groups outside 0..{groups - 1}")
    return _scaled(parts, values, group_of, parts.zero_points((groups, outputs), PLAIN_ORDER))


def _scaled(parts: _Parts, values: Tensor, group_of: Tensor, zeros: Tensor) -> Tensor:
    """values [in_features, out_features] less their group's zero points, times its scales, as a
    weight [out_features, in_features]."""
    scales = parts.part("scales", tuple(zeros.shape)).float()
    return ((values - zeros[group_of]).float() * scales[group_of]).T.contiguous()


_READERS: Mapping[Packing, Callable[[_Parts, Shape], Tensor | None]] = {
    Packing.FP8: _fp8,
    Packing.AWQ: _awq,
    Packing.GPTQ: _gptq,
}
