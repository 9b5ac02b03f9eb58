"""The operators on a CPU: C++ over plain pointers."""

import torch
from torch import Tensor

from engine.kernels.batch_input import BatchInput
from engine.kernels.cpu_library import load_operators
from engine.kernels.cpu_linear import cpu_linear
from engine.kernels.huge_pages import huge_empty
from engine.kernels.kernel_set import HeadShape, Linear, Weight
from engine.kernels.latent import LatentKernels
from engine.kernels.reference import ReferenceKernels

BLOCK_SIZE = 16  # what the C++ kernels are written for
HEAD_DIMS = (16, 32, 64, 96, 128, 256)  # the same
DTYPES = (torch.float32, torch.bfloat16)


class CpuKernels:
    """C++ operators over float32 and bfloat16, one step at a time: it owns their working memory."""

    def __init__(self) -> None:
        self._library = load_operators()
        self._reference = ReferenceKernels()
        self.latents: LatentKernels = self._reference.latents
        self.grouped = self._reference.grouped
        self._workspace = torch.empty(0, dtype=torch.uint8)
        self._checked: BatchInput | None = None  # the step whose indices are known to be right

    def linear(self, weight: Weight, bias: Tensor | None, wide: bool = False) -> Linear:
        if not isinstance(weight, Tensor):
            return self._reference.linear(weight, bias)
        return cpu_linear(self._library, weight, bias, wide)

    def rms_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        added = x.data_ptr() if residual is not None else None
        residual = x if residual is None else residual
        out = torch.empty_like(x)
        self._library.baton_rms_norm(
            _wide(x),
            added,
            residual.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            *x.shape,
            eps,
            torch.get_num_threads(),
        )
        return out, residual

    def store_kv(
        self, qkv: Tensor, heads: HeadShape, rope: Tensor, batch: BatchInput, layer_kv: Tensor
    ) -> Tensor:
        if layer_kv.dtype != qkv.dtype:
            return self._reference.store_kv(qkv, heads, rope, batch, layer_kv)
        if batch is not self._checked:
            batch.check_bounds(layer_kv.shape[0], layer_kv.shape[3], rope.shape[0])
            self._checked = batch
        q = qkv.new_empty(qkv.shape[0], heads.num_heads, heads.head_dim)
        self._library.baton_store_kv(
            _wide(qkv),
            qkv.data_ptr(),
            None if heads.q_norm is None else heads.q_norm.data_ptr(),
            None if heads.k_norm is None else heads.k_norm.data_ptr(),
            rope.data_ptr(),
            batch.positions.data_ptr(),
            batch.slots.data_ptr(),
            layer_kv.data_ptr(),
            q.data_ptr(),
            qkv.shape[0],
            heads.num_heads,
            heads.num_kv_heads,
            heads.head_dim,
            layer_kv.shape[3],
            *_strides(layer_kv),
            heads.rms_norm_eps,
            torch.get_num_threads(),
        )
        return q

    def attention(
        self, q: Tensor, batch: BatchInput, layer_kv: Tensor, window: int | None
    ) -> Tensor:
        own = q.shape[2] in HEAD_DIMS and layer_kv.shape[3] == BLOCK_SIZE
        if not own or layer_kv.dtype != q.dtype:
            return self._reference.attention(q, batch, layer_kv, window)
        out = q.new_empty(q.shape[0], q.shape[1] * q.shape[2])
        arguments = (
            _wide(q),
            q.data_ptr(),
            layer_kv.data_ptr(),
            batch.block_tables.data_ptr(),
            batch.query_start.data_ptr(),
            batch.context_len.data_ptr(),
            out.data_ptr(),
            *batch.block_tables.shape,
            q.shape[1],
            layer_kv.shape[2],
            q.shape[2],
            *_strides(layer_kv),
            window or 0,
            torch.get_num_threads(),
        )
        attend = self._library.baton_attention
        workspace = self._reserve(attend(*arguments, None, 1))
        attend(*arguments, workspace, 0)
        return out

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        rows, both = gate_up.shape
        out = gate_up.new_empty(rows, both // 2)
        self._library.baton_silu_mul(
            _wide(out), gate_up.data_ptr(), out.data_ptr(), rows, both // 2, torch.get_num_threads()
        )
        return out

    def _reserve(self, num_bytes: int) -> int | None:
        """The address of at least so many bytes of working memory; None for none."""
        if num_bytes > self._workspace.shape[0]:
            self._workspace = huge_empty(num_bytes)
        return self._workspace.data_ptr() if num_bytes else None


def _strides(layer_kv: Tensor) -> tuple[int, int]:
    """Elements from block to block and from keys to values, in a cache or in some of its heads."""
    assert layer_kv[0, 0].is_contiguous(), layer_kv.stride()
    return layer_kv.stride(0), layer_kv.stride(1)


def _wide(tensor: Tensor) -> int:
    assert tensor.dtype in DTYPES and tensor.is_contiguous(), (tensor.dtype, tensor.stride())
    return int(tensor.dtype == torch.float32)
