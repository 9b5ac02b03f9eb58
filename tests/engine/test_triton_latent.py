"""The Triton kernel of absorbed decode against its twin and against float64."""

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from engine.kernels import BatchInput  # noqa: E402
from engine.kernels.latent import LatentHeads, ReferenceLatents  # noqa: E402
from engine.kernels.triton_kernels import TritonKernels  # noqa: E402
from engine.kernels.triton_kernels.latent_decode import latent_decode  # noqa: E402

INTERPRETED = bool(triton.knobs.runtime.interpret)
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")
pytestmark = pytest.mark.skipif(
    not INTERPRETED and DEVICE.type == "cpu", reason="test_triton_interpreter.py runs them"
)
BLOCK, SCALE = 16, 0.2


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + 31 * seed)
    return torch.randn(*shape, generator=generator).to(DEVICE)


def batch_of(lengths: list[tuple[int, int]]) -> BatchInput:
    """Sequences of (query tokens, context) in scattered blocks, -1 behind their tables."""
    num_blocks = sum(-(-context // BLOCK) for _, context in lengths)
    free = torch.randperm(num_blocks + 2, generator=torch.Generator().manual_seed(5)).tolist()
    width = max(-(-context // BLOCK) for _, context in lengths) + 2
    tables, starts = [], [0]
    for queries, context in lengths:
        table = [free.pop() for _ in range(-(-context // BLOCK))]
        tables.append(table + [-1] * (width - len(table)))
        starts.append(starts[-1] + queries)

    def tensor(values: object, dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=DEVICE)

    zeros = torch.zeros(starts[-1], dtype=torch.int64, device=DEVICE)
    return BatchInput(
        token_ids=zeros,
        positions=zeros,
        slots=zeros,
        block_tables=tensor(tables, torch.int32),
        query_start=tensor(starts, torch.int32),
        context_len=tensor([context for _, context in lengths], torch.int32),
        logit_rows=tensor([0], torch.int64),
    )


def cache_of(batch: BatchInput, width: int) -> Tensor:
    """Random where a sequence has a token, and NaN in all other places."""
    num_blocks = int(batch.block_tables.max()) + 3
    kv = torch.full((num_blocks, 1, 1, BLOCK, width), float("nan"), device=DEVICE)
    for table, context in zip(batch.block_tables.tolist(), batch.context_len.tolist(), strict=True):
        for position in range(context):
            kv[table[position // BLOCK], 0, 0, position % BLOCK] = randn(width, seed=position)
    return kv


def expected(q: Tensor, rank: int, batch: BatchInput, kv: Tensor, sequence: int) -> Tensor:
    """The one token of a sequence in float64."""
    context = int(batch.context_len[sequence])
    blocks = batch.block_tables[sequence, : -(-context // BLOCK)].long()
    keys = kv[blocks, 0, 0].flatten(0, 1)[:context].double()
    row = q[int(batch.query_start[sequence])].double()
    return (row @ keys.T * SCALE).softmax(-1) @ keys[:, :rank]


@pytest.mark.parametrize("num_processors", [1, 40])
@pytest.mark.parametrize(("num_heads", "rank", "rope_dim"), [(4, 32, 8), (20, 24, 16), (1, 64, 12)])
def test_single_tokens_attend_over_latents(
    num_heads: int, rank: int, rope_dim: int, num_processors: int
) -> None:
    batch = batch_of([(1, 300), (5, 40), (1, 1), (1, 17)])
    kv = cache_of(batch, rank + rope_dim)
    q = randn(batch.num_tokens, num_heads, rank + rope_dim)
    out = latent_decode(q, rank, SCALE, batch, kv, num_processors)
    for sequence in (0, 2, 3):
        row = out[int(batch.query_start[sequence])].double()
        assert torch.allclose(row, expected(q, rank, batch, kv, sequence), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter multiplies bf16 as integers")
def test_bfloat16_stays_near_float64() -> None:
    batch = batch_of([(1, 70)])
    kv = cache_of(batch, 40).bfloat16()
    q = randn(1, 4, 40).bfloat16()
    out = latent_decode(q, 32, SCALE, batch, kv, 1).double()
    wanted = expected(q, 32, batch, kv, 0)
    assert (out - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("num_processors", [1, 40])
def test_a_sequence_without_a_context_gives_zeros(num_processors: int) -> None:
    batch = batch_of([(1, 280), (1, 0)])
    kv = cache_of(batch, 40)
    out = latent_decode(randn(2, 4, 40), 32, SCALE, batch, kv, num_processors)
    assert (out[1] == 0).all() and not out[0].isnan().any()


@pytest.mark.parametrize("lengths", [[(1, 33), (1, 5)], [(1, 33), (30, 50), (3, 20)], [(9, 9)]])
def test_a_batch_gives_what_the_twin_gives(lengths: list[tuple[int, int]]) -> None:
    heads = LatentHeads(randn(4, 12, 8), randn(4, 10, 8, seed=1), SCALE)
    batch = batch_of(lengths)
    kv = cache_of(batch, 8 + 4)
    q = randn(batch.num_tokens, 4, 16)
    twin = ReferenceLatents().attend(q, heads, batch, kv)
    ours = TritonKernels().latents.attend(q, heads, batch, kv)
    assert torch.allclose(ours, twin, rtol=1e-4, atol=1e-5)
