"""The Triton kernels over a cache and weights in fp8, against the plain twins."""

import pytest
import torch

triton = pytest.importorskip("triton")

from engine.kernels import BatchInput, HeadShape  # noqa: E402
from engine.kernels.fp8_linear import FP8, Fp8Linear, Fp8Weight  # noqa: E402
from engine.kernels.reference import ReferenceKernels  # noqa: E402
from engine.kernels.triton_kernels import TritonKernels  # noqa: E402

if not torch.cuda.is_available() and not triton.knobs.runtime.interpret:
    pytest.skip("neither a GPU nor the interpreter is here", allow_module_level=True)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HEADS, KV_HEADS, DIM = 4, 2, 32
CONTEXTS = ((1, 40), (9, 30), (1, 5))  # (queries, context): two that decode around a chunk


def randn(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).to(DEVICE)


def batch() -> BatchInput:
    positions, slots, tables, starts = [], [], [], [0]
    for number, (queries, context) in enumerate(CONTEXTS):
        table = [3 * number + 2, 3 * number, 3 * number + 1]
        tables.append(table)
        for position in range(context - queries, context):
            positions.append(position)
            slots.append(table[position // 16] * 16 + position % 16)
        starts.append(len(positions))
    contexts = [context for _, context in CONTEXTS]
    return BatchInput(
        token_ids=torch.zeros(len(positions), dtype=torch.int64, device=DEVICE),
        positions=torch.tensor(positions, device=DEVICE),
        slots=torch.tensor(slots, device=DEVICE),
        block_tables=torch.tensor(tables, dtype=torch.int32, device=DEVICE),
        query_start=torch.tensor(starts, dtype=torch.int32, device=DEVICE),
        context_len=torch.tensor(contexts, dtype=torch.int32, device=DEVICE),
        logit_rows=torch.tensor([0], device=DEVICE),
    )


def cache() -> torch.Tensor:
    return randn(9, 2, KV_HEADS, 16, DIM, seed=3).to(FP8)


@pytest.mark.parametrize("window", [None, 12])
def test_attention_reads_fp8_as_the_twin_does(window: int | None) -> None:
    q, layer_kv = randn(batch().num_tokens, HEADS, DIM, seed=1), cache()
    found = TritonKernels().attention(q, batch(), layer_kv, window)
    wanted = ReferenceKernels().attention(q, batch(), layer_kv, window)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_stored_keys_and_values_are_the_twins_and_stop_at_the_largest_value() -> None:
    heads = HeadShape(HEADS, KV_HEADS, DIM, 1e-6)
    columns = (HEADS + 2 * KV_HEADS) * DIM
    qkv = randn(batch().num_tokens, columns, seed=2, scale=200.0)  # a few beyond 448
    if triton.knobs.runtime.interpret:  # it rounds 31 to 16: it gets what fp8 holds
        qkv = torch.where(qkv.abs() < 448, qkv.to(FP8).float(), qkv)
    rope = torch.cat((torch.ones(64, DIM // 2), torch.zeros(64, DIM // 2)), dim=1).to(DEVICE)
    ours, theirs = cache(), cache()
    TritonKernels().store_kv(qkv, heads, rope, batch(), ours)
    ReferenceKernels().store_kv(qkv, heads, rope, batch(), theirs)
    assert torch.equal(ours.float(), theirs.float())
    assert ours.float().abs().max() == 448.0


@pytest.mark.parametrize("out_features", [16, 48])
@pytest.mark.parametrize("has_bias", [False, True])
def test_one_row_times_a_weight_in_fp8_stays_as_it_is(out_features: int, has_bias: bool) -> None:
    weight = Fp8Weight.of(randn(out_features, 1024, seed=5))
    bias = randn(out_features, seed=6).bfloat16() if has_bias else None
    x = randn(1, 1024, seed=7).bfloat16()
    plain = weight.values.float() * weight.scales.unsqueeze(1)
    wanted = x.float() @ plain.T + (0.0 if bias is None else bias.float())
    found = TritonKernels().linear(weight, bias)(x)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), wanted, rtol=1e-2, atol=0.02 * wanted.abs().max().item())


def test_more_rows_times_a_weight_in_fp8_are_brought_to_fp8() -> None:
    weight, x = Fp8Weight.of(randn(32, 64, seed=8)), randn(5, 64, seed=9).bfloat16()
    assert torch.equal(TritonKernels().linear(weight, None)(x), Fp8Linear(weight, None)(x))
