"""Projections whose weights stay in fp8 on the device: half the bytes of bf16 to read."""

from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_LARGEST = 448.0
_SMALLEST = 1e-12  # of a row's largest element, so that a row of zeros has a scale
_SLACK = 1e-3  # a quotient that is a power of two but for rounding is one
_STEP = 16  # sizes that torch's scaled product takes are multiples of it


@dataclass(frozen=True, slots=True)
class Fp8Weight:
    """A weight in e4m3 with a scale for each output."""

    values: Tensor  # [out_features, in_features] e4m3
    scales: Tensor  # [out_features] float32

    @classmethod
    def of(cls, weight: Tensor, steps: Tensor | None = None) -> "Fp8Weight":
        """The nearest to a floating-point weight [out_features, in_features].

        steps [out_features] float32: an output's scale is its step times a power of two; where
        there is none, or 0, its largest value becomes e4m3's largest. Either way values that were
        e4m3 with such scales are found again.
        """
        values, scales = quantise_rows(weight, steps)
        return cls(values, scales.squeeze(1))

    @property
    def in_features(self) -> int:
        return self.values.shape[1]


@dataclass(frozen=True, slots=True)
class Fp8Linear:
    """Rows are brought to e4m3, each with a scale of its own, and multiplied as they are.

    On CUDA the product is torch._scaled_mm; elsewhere its twin in float32.
    """

    weight: Fp8Weight
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] == 0:
            return x.new_empty(0, self.weight.values.shape[0])
        rows, scales = quantise_rows(x)
        product = _scaled_product if x.is_cuda else twin_product
        out = product(rows, scales, self.weight).to(x.dtype)
        return out if self.bias is None else out + self.bias


def quantise_rows(x: Tensor, steps: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x [n, size] as e4m3 values and scales [n, 1] float32; a row's largest becomes 448, or less
    where the scale is a step [n] times a power of two."""
    wide = x.float()
    scales = wide.abs().amax(1, keepdim=True).clamp(min=_SMALLEST) / FP8_LARGEST
    if steps is not None:
        steps = steps.unsqueeze(1)
        powers = torch.exp2(((scales / steps).log2() - _SLACK).ceil())
        scales = torch.where(steps > 0, steps * powers, scales)
    return (wide / scales).clamp(-FP8_LARGEST, FP8_LARGEST).to(FP8), scales


def twin_product(rows: Tensor, scales: Tensor, weight: Fp8Weight) -> Tensor:
    """[n, in_features] e4m3 with scales [n, 1] -> [n, out_features] float32."""
    return (rows.float() @ weight.values.float().T) * scales * weight.scales


def _scaled_product(rows: Tensor, scales: Tensor, weight: Fp8Weight) -> Tensor:
    """As the twin, in bf16, which is what rows with scales of their own give."""
    out: Tensor = torch._scaled_mm(
        rows,
        weight.values.T,
        scale_a=scales,
        scale_b=weight.scales.unsqueeze(0),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return out


def multiplies_fp8(device: torch.device) -> bool:
    """Whether the device has products of e4m3: GPUs from Ada and Hopper on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def fits_fp8(weight: Tensor) -> bool:
    """Whether a scaled product takes a weight of these sizes."""
    return weight.shape[0] % _STEP == 0 and weight.shape[1] % _STEP == 0
