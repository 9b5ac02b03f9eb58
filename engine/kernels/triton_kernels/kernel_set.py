"""The Triton operators behind the interface that the layers use."""

from types import ModuleType

import torch
import triton
from torch import Tensor

from engine.kernels.batch_input import BatchInput
from engine.kernels.fp8_linear import Fp8Weight
from engine.kernels.int4_linear import Int4Weight
from engine.kernels.kernel_set import HeadShape, Linear, Weight
from engine.kernels.latent import LatentKernels
from engine.kernels.row_groups import GroupedProduct
from engine.kernels.triton_kernels.decode_attention import decode_attention
from engine.kernels.triton_kernels.grouped_product import grouped_product
from engine.kernels.triton_kernels.int4_product import Int4RowLinear
from engine.kernels.triton_kernels.latent_decode import TritonLatents
from engine.kernels.triton_kernels.norm import rms_norm
from engine.kernels.triton_kernels.prefill_attention import prefill_attention
from engine.kernels.triton_kernels.rope_cache import store_kv
from engine.kernels.triton_kernels.row_product import Fp8RowLinear, RowLinear
from engine.kernels.triton_kernels.silu import silu_mul
from engine.kernels.triton_kernels.tile import num_processors

# The releases that the Gluon kernel was compiled with; others take the portable kernel.
GLUON_RELEASES = ("3.6.", "3.7.", "3.8.")


class TritonKernels:
    """Fused kernels for an NVIDIA GPU; large matrix products stay with torch. Nothing here waits
    for the device, so that a decode step can be captured in a CUDA graph."""

    def __init__(self) -> None:
        self.latents: LatentKernels = TritonLatents()
        self.grouped: GroupedProduct | None = grouped_product
        self._hopper = hopper_support(triton.__version__)

    def linear(self, weight: Weight, bias: Tensor | None, wide: bool = False) -> Linear:
        if isinstance(weight, Fp8Weight):
            return Fp8RowLinear(weight, bias)
        if isinstance(weight, Int4Weight):
            return Int4RowLinear(weight, bias)
        return RowLinear(weight, bias, wide)

    def rms_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return rms_norm(x, residual, weight, eps)

    def store_kv(
        self, qkv: Tensor, heads: HeadShape, rope: Tensor, batch: BatchInput, layer_kv: Tensor
    ) -> Tensor:
        return store_kv(qkv, heads, rope, batch, layer_kv)

    def attention(
        self, q: Tensor, batch: BatchInput, layer_kv: Tensor, window: int | None
    ) -> Tensor:
        out = torch.empty_like(q)
        num_tokens, num_sequences = q.shape[0], batch.num_sequences
        # Every sequence gives a token, so the counts alone tell which lengths can occur.
        if num_tokens == num_sequences or num_sequences > 1:
            decode_attention(q, batch, layer_kv, window, out, num_processors(q.device))
        if num_tokens > num_sequences:
            if self._hopper is not None and self._hopper.takes(q, layer_kv, window):
                self._hopper.hopper_prefill(q, batch, layer_kv, out, min_queries=2)
            else:
                prefill_attention(q, batch, layer_kv, window, out, min_queries=2)
        return out.view(num_tokens, -1)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return silu_mul(gate_up)


def hopper_support(release: str) -> ModuleType | None:
    """The module of the Hopper kernel, where this release of Triton compiles it."""
    if not release.startswith(GLUON_RELEASES):
        return None
    from engine.kernels.triton_kernels import hopper_prefill

    return hopper_prefill
