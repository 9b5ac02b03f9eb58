"""Weights of integers as AutoAWQ and AutoGPTQ pack them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.quant_config import Packing
from engine.quantised_parts import Parts, Shape

WORD_BITS = 32
PLAIN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # which four bits of a word hold each of its eight outputs


@dataclass(frozen=True, slots=True)
class Integers:
    """A weight as integers, less their group's zero point and times its scale."""

    values: Tensor  # [in_features, out_features] int32
    zeros: Tensor  # [groups, out_features] int32
    scales: Tensor  # [groups, out_features] float32
    group_of: Tensor  # [in_features] int64

    def weight(self) -> Tensor:
        """[out_features, in_features] float32"""
        offsets = (self.values - self.zeros[self.group_of]).float()
        return (offsets * self.scales[self.group_of]).T.contiguous()


def read_integers(parts: Parts, shape: Shape) -> Integers | None:
    """The weight of that shape, [out_features, in_features]; None where a layer has no integers.

    Raises ModelError, naming the tensor, for parts that do not fit.
    """
    if not parts.has("qweight"):
        return None
    (outputs, inputs), bits = shape, parts.config.bits
    groups = -(-inputs // (parts.config.group_size or inputs))
    if parts.config.packing is Packing.AWQ:
        words = parts.part("qweight", (inputs, outputs * bits // WORD_BITS), torch.int32)
        values, order = unpack(words, bits, AWQ_ORDER).flatten(1), AWQ_ORDER
    else:
        words = parts.part("qweight", (inputs * bits // WORD_BITS, outputs), torch.int32)
        values, order = unpack(words, bits).transpose(1, 2).flatten(0, 1), PLAIN_ORDER
    return Integers(
        values=values,
        zeros=_zero_points(parts, (groups, outputs), order),
        scales=parts.part("scales", (groups, outputs)).float(),
        group_of=_group_of(parts, inputs, groups),
    )


def _zero_points(parts: Parts, shape: tuple[int, int], order: tuple[int, ...]) -> Tensor:
    """[groups, out_features], as the integers that stand for 0."""
    bits = parts.config.bits
    words = parts.part("qzeros", (shape[0], shape[1] * bits // WORD_BITS), torch.int32)
    zeros = unpack(words, bits, order).flatten(1) + parts.config.zero_offset
    return zeros & ((1 << bits) - 1)


def _group_of(parts: Parts, inputs: int, groups: int) -> Tensor:
    """Of each input; GPTQ may give groups inputs that are no neighbours."""
    if not parts.has("g_idx"):
        return torch.arange(inputs) // (parts.config.group_size or inputs)
    group_of = parts.part("g_idx", (inputs,), torch.int32).long()
    if int(group_of.min()) < 0 or int(group_of.max()) >= groups:
        raise parts.wrong("g_idx", f"names groups outside 0..{groups - 1}")
    return group_of


def unpack(words: Tensor, bits: int, order: tuple[int, ...] = PLAIN_ORDER) -> Tensor:
    """The unsigned integers of each word, in that order: int32 [...] -> [..., 32 / bits]."""
    shifts = torch.tensor(order[: WORD_BITS // bits], dtype=torch.int32) * bits
    return (words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
