"""The operators that a model is made of; each device brings its own set."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine.kernels.batch_input import BatchInput
from engine.kernels.fp8_linear import Fp8Weight
from engine.kernels.int4_linear import Int4Weight
from engine.kernels.latent import LatentKernels
from engine.kernels.row_groups import GroupedProduct

Weight = Tensor | Fp8Weight | Int4Weight


@dataclass(frozen=True, slots=True)
class HeadShape:
    """How the fused projection's columns split into heads, and how a query head is prepared."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    q_norm: Tensor | None = None  # [head_dim], with k_norm or neither
    k_norm: Tensor | None = None  # [head_dim]


class Linear(Protocol):
    """A weight laid out for its device."""

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] in the model's dtype -> [rows, out_features]."""


class KernelSet(Protocol):
    """The operators of a decoder layer. Inputs are contiguous and on the set's device.

    `layer_kv` is one layer of the cache, [num_blocks, 2, num_kv_heads, block_size, head_dim]; on
    a CPU perhaps a run of the heads of a wider one.
    """

    latents: LatentKernels  # for a cache of latents, in the place of store_kv and attention
    grouped: GroupedProduct | None  # for experts; None: each is multiplied on its own

    def linear(self, weight: Weight, bias: Tensor | None, wide: bool = False) -> Linear:
        """Lay out a weight [out_features, in_features]; the caller drops its own reference.

        Results are in the weight's dtype, or in float32 when `wide`. One in fp8 or int4 is
        never wide and gives results in its input's dtype.
        """

    def rms_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Add x [T, hidden] to the residual (in place), normalise the sum: (normed, residual)."""

    def store_kv(
        self, qkv: Tensor, heads: HeadShape, rope: Tensor, batch: BatchInput, layer_kv: Tensor
    ) -> Tensor:
        """Normalise and rotate q and k of qkv [T, (heads + 2 kv_heads) * head_dim], store k and v.

        `rope` is [max_positions, head_dim] float32, a row's cosines and then its sines.
        Returns q [T, num_heads, head_dim].
        """

    def attention(
        self, q: Tensor, batch: BatchInput, layer_kv: Tensor, window: int | None
    ) -> Tensor:
        """Causal attention of q [T, num_heads, head_dim] over the cache: [T, num_heads * head_dim].

        With a window a token sees itself and the `window - 1` tokens before it.
        """

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of [T, 2 * intermediate]: [T, intermediate]."""
