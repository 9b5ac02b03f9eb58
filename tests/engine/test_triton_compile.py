"""Each Triton kernel compiles for a Hopper GPU, on a machine without one.

The interpreter takes what the compiler does not: a name whose type changes in a branch, say.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.experimental.gluon._runtime import GluonASTSource  # noqa: E402

import engine.kernels.triton_kernels.decode_attention as decode  # noqa: E402
import engine.kernels.triton_kernels.grouped_product as grouped  # noqa: E402
import engine.kernels.triton_kernels.int4_product as int4  # noqa: E402
import engine.kernels.triton_kernels.latent_decode as latent  # noqa: E402
import engine.kernels.triton_kernels.norm as norm  # noqa: E402
import engine.kernels.triton_kernels.rope_cache as rope_cache  # noqa: E402
import engine.kernels.triton_kernels.row_product as product  # noqa: E402
import engine.kernels.triton_kernels.silu as silu  # noqa: E402
from engine.kernels import BatchInput, HeadShape  # noqa: E402
from engine.kernels.int4_linear import Int4Weight  # noqa: E402
from engine.kernels.row_groups import RowGroups  # noqa: E402
from engine.kernels.triton_kernels import TritonKernels  # noqa: E402
from engine.kernels.triton_kernels.decode_attention import decode_attention  # noqa: E402
from engine.kernels.triton_kernels.drawing import draw_rows  # noqa: E402
from engine.kernels.triton_kernels.gather import gather_blocks, scatter_blocks  # noqa: E402
from engine.kernels.triton_kernels.kernel_set import hopper_support  # noqa: E402
from engine.kernels.triton_kernels.row_product import row_product  # noqa: E402

CHAINED = (decode, grouped, int4, latent, norm, rope_cache, product, silu)
CHAIN = {"chained": True, "launch_pdl": True}
OPTIONS = ("num_warps", "num_stages", "maxnreg", "launch_pdl")
HOPPER = GPUTarget("cuda", 90, 32)
POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
HEADS, KV_HEADS, DIM, TOKENS = 8, 2, 128, 40


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was compiled by launches, none of which runs."""
    if triton.knobs.runtime.interpret or torch.cuda.is_available():
        pytest.skip("the kernels run here")
    kernels: list[Any] = []

    def run(self: Any, *args: Any, grid: object, warmup: bool, **kwargs: Any) -> None:
        options = {key: kwargs.pop(key) for key in OPTIONS if key in kwargs}
        bound = dict(zip(self.arg_names, args, strict=False)) | kwargs
        assert set(bound) == set(self.arg_names)
        fixed = {(self.arg_names.index(name),): value for name, value in kwargs.items()}
        types = {
            name: "constexpr" if name in kwargs else type_of(value) for name, value in bound.items()
        }
        source = (GluonASTSource if self.is_gluon() else ASTSource)(self, types, fixed, {})
        kernels.append(triton.compile(source, target=HOPPER, options=options))

    monkeypatch.setattr(triton.runtime.JITFunction, "run", run)
    for module in CHAINED:
        monkeypatch.setattr(
            module, "chain_options", lambda _: {"chained": True, "launch_pdl": True}
        )
    return kernels


def type_of(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if hasattr(value, "block_shape"):
        rows, columns = value.block_shape
        return f"tensordesc<bf16[{rows},{columns}],{value.layout!r}>"
    return "fp32" if isinstance(value, float) else "i32"


def batch() -> BatchInput:
    return BatchInput(
        token_ids=torch.zeros(TOKENS, dtype=torch.int64),
        positions=torch.arange(TOKENS),
        slots=torch.arange(TOKENS),
        block_tables=torch.zeros((3, 200), dtype=torch.int32),
        query_start=torch.tensor([0, 1, 2, TOKENS], dtype=torch.int32),
        context_len=torch.tensor([3, 4, TOKENS], dtype=torch.int32),
        logit_rows=torch.tensor([0]),
    )


def norms(dtype: torch.dtype) -> None:
    x = torch.zeros((TOKENS, 1000), dtype=dtype)
    for residual in (None, x):
        TritonKernels().rms_norm(x, residual, x[0], 1e-5)


def gates(dtype: torch.dtype) -> None:
    TritonKernels().silu_mul(torch.zeros((TOKENS, 3000), dtype=dtype))


def products(dtype: torch.dtype) -> None:
    x, bias = torch.zeros((1, 1024), dtype=dtype), torch.zeros(40, dtype=dtype)
    for wide in (False, True):
        row_product(x, torch.zeros((40, 1024), dtype=dtype), None, bias, wide)
        row_product(x[:, :512], torch.zeros((40, 512), dtype=dtype), None, None, wide)
    row_product(x, torch.zeros((40, 1024)).to(torch.float8_e4m3fn), torch.zeros(40), bias, False)


def stores(dtype: torch.dtype) -> None:
    qkv = torch.zeros((TOKENS, (HEADS + 2 * KV_HEADS) * DIM), dtype=dtype)
    for weight in (None, torch.zeros(DIM, dtype=dtype)):
        heads = HeadShape(HEADS, KV_HEADS, DIM, 1e-5, weight, weight)
        rope = torch.zeros((TOKENS, DIM))
        TritonKernels().store_kv(qkv, heads, rope, batch(), cache(dtype))


def attention(dtype: torch.dtype) -> None:
    q = torch.zeros((TOKENS, HEADS, DIM), dtype=dtype)
    for window in (None, 20):
        TritonKernels().attention(q, batch(), cache(dtype), window)
        decode_attention(q, batch(), cache(dtype), window, q, num_processors=132)


def fp8_cache(dtype: torch.dtype) -> None:
    narrow = cache(torch.float8_e4m3fn)
    q = torch.zeros((TOKENS, HEADS, DIM), dtype=dtype)
    qkv = torch.zeros((TOKENS, (HEADS + 2 * KV_HEADS) * DIM), dtype=dtype)
    heads = HeadShape(HEADS, KV_HEADS, DIM, 1e-5)
    TritonKernels().store_kv(qkv, heads, torch.zeros((TOKENS, DIM)), batch(), narrow)
    TritonKernels().attention(q, batch(), narrow, None)
    decode_attention(q, batch(), narrow, 20, q, num_processors=132)


def blocks(dtype: torch.dtype) -> None:
    kv = cache(dtype).unsqueeze(0)
    ids = torch.zeros(2, dtype=torch.int64)
    scatter_blocks(gather_blocks(kv, ids), ids, kv)


def latents(dtype: torch.dtype) -> None:
    """DeepSeek-V3's heads, which take several tiles."""
    kv = torch.zeros((5, 1, 1, 16, 576), dtype=dtype)
    q = torch.zeros((TOKENS, 128, 576), dtype=dtype)
    latent.latent_decode(q, 512, 0.1, batch(), kv, num_processors=132)


def int4_weights(dtype: torch.dtype) -> None:
    weight = Int4Weight(
        torch.zeros((40, 256), dtype=torch.uint8), torch.zeros(40, 4), torch.zeros(40, 4)
    )
    for bias in (None, torch.zeros(40, dtype=dtype)):
        int4.int4_product(torch.zeros((3, 512), dtype=dtype), weight, bias)


def experts(dtype: torch.dtype) -> None:
    weights = torch.zeros((4, 40, 100), dtype=dtype)
    for tokens in (3, 200):  # few rows a tile, and many
        x, chosen = torch.zeros((tokens, 100), dtype=dtype), torch.zeros(tokens, 2).long()
        groups = RowGroups.of(chosen, 4)
        grouped.grouped_product(x, groups.order // 2, weights, groups)


def draws(dtype: torch.dtype) -> None:
    ones = np.ones(2, np.float32)
    draw_rows(
        torch.zeros((2, 5000)), ones, np.ones(2, np.int32), ones, ones, np.ones(2, np.float64)
    )


def cache(dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros((5, 2, KV_HEADS, 16, DIM), dtype=dtype)


LAUNCHES = [norms, gates, products, stores, attention, fp8_cache, latents, int4_weights, experts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("launch", [*LAUNCHES, blocks, draws])
def test_each_kernel_compiles_for_a_hopper_gpu(
    launch: Callable[[torch.dtype], None], dtype: torch.dtype, compiled: list[Any]
) -> None:
    launch(dtype)
    assert compiled
    for kernel in compiled:
        assert kernel.metadata.shared <= 227 * 1024, kernel.metadata.name
        assert kernel.asm["cubin"]


def test_the_hopper_kernel_compiles_with_the_releases_it_is_let_through_for(
    compiled: list[Any],
) -> None:
    hopper = hopper_support(triton.__version__)
    if hopper is None:
        pytest.skip("this release of Triton takes the portable kernel")
    q = torch.zeros((TOKENS, HEADS, DIM), dtype=torch.bfloat16)
    hopper.hopper_prefill(q, batch(), cache(torch.bfloat16), q, min_queries=2)
    assert compiled[0].metadata.shared <= 227 * 1024
    assert "wgmma" in compiled[0].asm["ptx"]


def test_other_releases_take_the_portable_kernel() -> None:
    assert hopper_support("3.5.1") is None
    assert hopper_support("3.9.0") is None
