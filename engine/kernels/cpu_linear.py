"""Projections on a CPU: which layout of a weight is fastest depends on the processor."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.huge_pages import huge_empty
from engine.kernels.kernel_set import Linear
from engine.kernels.reference import PlainLinear

GROUP = 64  # outputs that cpu_linear.h lays out side by side


@dataclass(frozen=True, slots=True)
class StreamedLinear:
    """A bfloat16 weight laid out as cpu_linear.h reads it; for processors with AVX512-BF16."""

    library: ctypes.CDLL
    packed: Tensor  # uint8
    bias: Tensor | None  # [out_features] float32
    out_features: int
    in_features: int
    wide: bool

    def __call__(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.in_features and x.is_contiguous() and x.dtype == torch.bfloat16
        dtype = torch.float32 if self.wide else torch.bfloat16
        out = torch.empty(x.shape[0], self.out_features, dtype=dtype)
        self.library.baton_project(
            x.data_ptr(),
            self.packed.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            out.data_ptr(),
            self.wide,
            x.shape[0],
            self.out_features,
            self.in_features,
            torch.get_num_threads(),
        )
        return out


@dataclass(frozen=True, slots=True)
class OneDnnLinear:
    """A bfloat16 weight in the layout that oneDNN chose for it; it knows AMX."""

    packed: Tensor
    bias: Tensor | None
    wide: bool

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out.float() if self.wide else out


def cpu_linear(library: ctypes.CDLL, weight: Tensor, bias: Tensor | None, wide: bool) -> Linear:
    """Lay out a weight [out_features, in_features]; a float32 one stays as it is, uncopied."""
    if weight.dtype != torch.bfloat16:
        return PlainLinear(weight, bias, wide)
    if weight.shape[1] % 2 == 0 and streams_bfloat16():
        return streamed(library, weight.contiguous(), bias, wide)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return OneDnnLinear(packed, bias, wide)


def streams_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in vectors, and has no faster matrix unit."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def streamed(
    library: ctypes.CDLL, weight: Tensor, bias: Tensor | None, wide: bool
) -> StreamedLinear:
    """Copy a contiguous bfloat16 weight with an even number of inputs into its layout."""
    out_features, in_features = weight.shape
    packed = huge_empty(-(-out_features // GROUP) * GROUP * in_features * 2)
    library.baton_pack_weight(
        weight.data_ptr(), packed.data_ptr(), out_features, in_features, torch.get_num_threads()
    )
    wide_bias = None if bias is None else bias.float()
    return StreamedLinear(library, packed, wide_bias, out_features, in_features, wide)
