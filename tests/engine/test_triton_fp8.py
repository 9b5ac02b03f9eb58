"""The Triton kernels over a cache in fp8, against the plain twin."""

import pytest
import torch

triton = pytest.importorskip("triton")

from engine.kernels import BatchInput, HeadShape  # noqa: E402
from engine.kernels.reference import FP8, ReferenceKernels  # noqa: E402
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
