"""Projections whose weights stay in int4 on the device: a quarter of the bytes of bf16 to read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_GROUP = 32


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """A weight of four-bit integers; groups of inputs share a scale and a zero point.

    A byte holds two inputs of one output, half a group apart:

        byte     0        1         | group / 2 of them, then the next group's
        low bits input 0  input 1   |
        high     input 0 + group/2  |
    """

    packed: Tensor  # [out_features, in_features / 2] uint8
    scales: Tensor  # [out_features, groups] float32
    zeros: Tensor  # [out_features, groups] float32, the integers that stand for 0
    order: Tensor | None = None  # [in_features] int64, where groups are not neighbours

    @classmethod
    def of(
        cls, values: Tensor, zeros: Tensor, scales: Tensor, group_of: Tensor
    ) -> "Int4Weight | None":
        """values [in_features, out_features], zeros and scales [groups, out_features], group_of
        [in_features]; None where groups are not all of one size that is a power of two."""
        size, rest = divmod(values.shape[0], zeros.shape[0])
        counts = group_of.bincount(minlength=zeros.shape[0])
        if rest or size < SMALLEST_GROUP or size & (size - 1) or bool((counts != size).any()):
            return None
        order = group_of.argsort(stable=True)
        is_plain = bool((order == torch.arange(len(order))).all())
        grouped = values[order].T.reshape(values.shape[1], -1, 2, size // 2)
        packed = (grouped[:, :, 0] | grouped[:, :, 1] << 4).flatten(1).to(torch.uint8)
        return cls(
            packed.contiguous(),
            scales.T.float().contiguous(),
            zeros.T.float().contiguous(),
            None if is_plain else order,
        )

    @property
    def group_size(self) -> int:
        return 2 * self.packed.shape[1] // self.scales.shape[1]

    def rows(self, numbers: Tensor) -> "Int4Weight":
        """These outputs in that order."""
        return Int4Weight(
            self.packed[numbers], self.scales[numbers], self.zeros[numbers], self.order
        )

    def to(self, device: torch.device) -> "Int4Weight":
        order = None if self.order is None else self.order.to(device)
        return Int4Weight(
            self.packed.to(device), self.scales.to(device), self.zeros.to(device), order
        )

    def plain(self, dtype: torch.dtype) -> Tensor:
        """[out_features, in_features], inputs in the order of `order`."""
        grouped = self.packed.view(*self.scales.shape, -1)
        values = torch.cat((grouped & 15, grouped >> 4), dim=-1).float()  # [out, groups, size]
        wide = (values - self.zeros.unsqueeze(-1)) * self.scales.unsqueeze(-1)
        return wide.flatten(1).to(dtype)

    def ordered(self, x: Tensor) -> Tensor:
        """x [n, in_features] with inputs in the order of the weight's."""
        return x if self.order is None else x[:, self.order]


def stack_int4(parts: Sequence[Int4Weight | None]) -> Int4Weight | None:
    """The outputs of all parts; None where one is missing or groups its inputs otherwise."""
    first = parts[0]
    whole = [part for part in parts if part is not None]
    if first is None or len(whole) < len(parts):
        return None
    if any(not _is_grouped_alike(first, part) for part in whole):
        return None
    packed, scales, zeros = (
        torch.cat(tensors)
        for tensors in zip(*((p.packed, p.scales, p.zeros) for p in whole), strict=True)
    )
    return Int4Weight(packed, scales, zeros, first.order)


def _is_grouped_alike(a: Int4Weight, b: Int4Weight) -> bool:
    if a.group_size != b.group_size or (a.order is None) != (b.order is None):
        return False
    return a.order is None or b.order is None or torch.equal(a.order, b.order)


def keeps_int4(device: torch.device) -> bool:
    """Whether a device reads weights in int4 faster than plain ones."""
    return device.type == "cuda"


@dataclass(frozen=True, slots=True)
class Int4Linear:
    """The weight is multiplied out at each use, in the input's dtype."""

    weight: Int4Weight
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(self.weight.ordered(x), self.weight.plain(x.dtype), self.bias)
