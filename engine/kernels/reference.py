"""The operators in plain torch: the oracle of the tests, and the fallback on any device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.kernels.batch_input import BatchInput
from engine.kernels.fp8_linear import FP8, FP8_LARGEST, Fp8Linear, Fp8Weight
from engine.kernels.int4_linear import Int4Linear, Int4Weight
from engine.kernels.kernel_set import HeadShape, Linear, Weight
from engine.kernels.latent import LatentKernels, ReferenceLatents
from engine.kernels.rotary import rotate
from engine.kernels.row_groups import GroupedProduct


@dataclass(frozen=True, slots=True)
class PlainLinear:
    """A weight as it is stored, without a copy."""

    weight: Tensor  # [out_features, in_features]
    bias: Tensor | None
    wide: bool = False  # results in float32

    def __call__(self, x: Tensor) -> Tensor:
        out = functional.linear(x, self.weight, self.bias)
        return out.float() if self.wide else out


def normalise(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., size] over its root mean square, in float32, times the weight [size]."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.float()).to(x.dtype)


class ReferenceKernels:
    """Plain torch on any device. Correct at every shape, and slow over many sequences."""

    def __init__(self) -> None:
        self.latents: LatentKernels = ReferenceLatents()
        self.grouped: GroupedProduct | None = None

    def linear(self, weight: Weight, bias: Tensor | None, wide: bool = False) -> Linear:
        if isinstance(weight, Fp8Weight):
            return Fp8Linear(weight, bias)
        if isinstance(weight, Int4Weight):
            return Int4Linear(weight, bias)
        return PlainLinear(weight, bias, wide)

    def rms_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        residual = x if residual is None else residual.add_(x)
        return normalise(residual, weight, eps), residual

    def store_kv(
        self, qkv: Tensor, heads: HeadShape, rope: Tensor, batch: BatchInput, layer_kv: Tensor
    ) -> Tensor:
        grouped = qkv.view(qkv.shape[0], -1, heads.head_dim)
        q, k, v = grouped.tensor_split(
            (heads.num_heads, heads.num_heads + heads.num_kv_heads), dim=1
        )
        if heads.q_norm is not None and heads.k_norm is not None:
            q = normalise(q, heads.q_norm, heads.rms_norm_eps)
            k = normalise(k, heads.k_norm, heads.rms_norm_eps)
        rope_rows = rope[batch.positions]
        block_size = layer_kv.shape[3]
        block, offset = batch.slots // block_size, batch.slots % block_size
        raw = storable(layer_kv)
        raw[block, 0, :, offset] = storable(narrow(rotate(k, rope_rows), layer_kv.dtype))
        raw[block, 1, :, offset] = storable(narrow(v, layer_kv.dtype))
        return rotate(q, rope_rows)

    def attention(
        self, q: Tensor, batch: BatchInput, layer_kv: Tensor, window: int | None
    ) -> Tensor:
        out = torch.empty_like(q)
        starts, contexts = batch.query_start.tolist(), batch.context_len.tolist()
        for sequence, context in enumerate(contexts):
            rows = slice(starts[sequence], starts[sequence + 1])
            if rows.start == rows.stop:
                continue
            keys, values = gather(layer_kv, batch.block_tables[sequence], context)
            visible = mask(rows.stop - rows.start, context, window, q.device)
            out[rows] = attend(q[rows], keys, values, visible)
        return out.view(q.shape[0], -1)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.float().chunk(2, dim=-1)
        return (functional.silu(gate) * up).to(gate_up.dtype)


def gather(layer_kv: Tensor, table: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Copy a sequence's keys and values out, each [num_kv_heads, context, head_dim]."""
    block_size = layer_kv.shape[3]
    blocks = table[: -(-context // block_size)].long()
    both = (
        storable(layer_kv)[blocks]
        .view(layer_kv.dtype)
        .permute(1, 2, 0, 3, 4)
        .flatten(2, 3)[:, :, :context]
    )
    return both[0], both[1]


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in a cache's dtype; what fp8 cannot hold becomes its largest value."""
    if dtype == FP8:
        x = x.clamp(-FP8_LARGEST, FP8_LARGEST)
    return x.to(dtype)


def storable(x: Tensor) -> Tensor:
    """The same memory as torch can index it: fp8 as bytes."""
    return x.view(torch.uint8) if x.dtype == FP8 else x


def mask(num_queries: int, context: int, window: int | None, device: torch.device) -> Tensor:
    """[num_queries, context] bool: which keys each of the sequence's last tokens sees."""
    keys = torch.arange(context, device=device)
    queries = keys[context - num_queries :].unsqueeze(1)
    visible = keys <= queries
    return visible if window is None else visible & (keys > queries - window)


def attend(q: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Softmax attention in float32: q [n, num_heads, head_dim] -> the same shape and dtype."""
    group = q.shape[1] // keys.shape[0]
    keys = keys.float().repeat_interleave(group, dim=0)
    values = values.float().repeat_interleave(group, dim=0)
    scores = q.float().transpose(0, 1) @ keys.transpose(1, 2) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    out: Tensor = weights @ values
    return out.transpose(0, 1).to(q.dtype)
