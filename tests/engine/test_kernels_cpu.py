"""The CPU operators against their plain-torch twins, over ragged batches and scattered blocks."""

import ctypes
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.kernels import BatchInput, HeadShape
from engine.kernels.cpu import CpuKernels
from engine.kernels.cpu_library import load_operators
from engine.kernels.cpu_linear import OneDnnLinear, cpu_linear, streamed
from engine.kernels.reference import ReferenceKernels

BLOCK = 16
REFERENCE = ReferenceKernels()
DTYPES = (torch.float32, torch.bfloat16)
quick = settings(max_examples=60)


@pytest.fixture(scope="module")
def cpu() -> CpuKernels:
    return CpuKernels()


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return load_operators()


@pytest.fixture(scope="module", params=[1, 3], ids=["one-thread", "three-threads"], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def normal(seed: int, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Equal up to the rounding of the dtype, relative to the largest value."""
    steps = 4 if ours.dtype == torch.bfloat16 else 40
    scale = float(theirs.float().abs().max()) if theirs.numel() else 0.0
    torch.testing.assert_close(
        ours.float(),
        theirs.float(),
        rtol=steps * torch.finfo(ours.dtype).eps,
        atol=steps * torch.finfo(ours.dtype).eps * scale,
    )


def ragged_batch(contexts: list[int], queries: list[int], seed: int) -> tuple[BatchInput, int]:
    """Sequences of those lengths with their last tokens as queries; blocks are scattered."""
    counts = [-(-context // BLOCK) for context in contexts]
    num_blocks = sum(counts) + 3
    free = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(seed)).tolist()
    tables = [[free.pop() for _ in range(count)] for count in counts]
    width = max(counts) + 1
    positions, slots, starts = [], [], [0]
    for table, context, count in zip(tables, contexts, queries, strict=True):
        for position in range(context - count, context):
            positions.append(position)
            slots.append(table[position // BLOCK] * BLOCK + position % BLOCK)
        starts.append(len(positions))
    batch = BatchInput(
        token_ids=torch.zeros(len(positions), dtype=torch.int64),
        positions=torch.tensor(positions, dtype=torch.int64),
        slots=torch.tensor(slots, dtype=torch.int64),
        block_tables=torch.tensor(
            [table + [-1] * (width - len(table)) for table in tables], dtype=torch.int32
        ),
        query_start=torch.tensor(starts, dtype=torch.int32),
        context_len=torch.tensor(contexts, dtype=torch.int32),
        logit_rows=torch.tensor([], dtype=torch.int64),
    )
    return batch, num_blocks


def cache_of(
    batch: BatchInput, num_blocks: int, heads: int, dim: int, dtype: torch.dtype
) -> Tensor:
    """A layer's cache with values where the batch's contexts are and NaN everywhere else."""
    kv = torch.full((num_blocks, 2, heads, BLOCK, dim), float("nan"), dtype=dtype)
    for table, context in zip(batch.block_tables.tolist(), batch.context_len.tolist(), strict=True):
        for position in range(context):
            kv[table[position // BLOCK], :, :, position % BLOCK] = normal(
                position, 2, heads, dim, dtype=dtype
            )
    return kv


sequences = st.lists(
    st.integers(1, 90).flatmap(
        lambda context: st.tuples(
            st.just(context), st.one_of(st.just(1), st.integers(1, context), st.just(context))
        )
    ),
    min_size=1,
    max_size=5,
)


@quick
@given(
    lengths=sequences,
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 7),
    dim=st.sampled_from([16, 32, 64, 96, 128]),
    window=st.one_of(st.none(), st.integers(1, 60)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_attention_equals_its_twin_over_ragged_batches(
    cpu: CpuKernels,
    lengths: list[tuple[int, int]],
    kv_heads: int,
    group: int,
    dim: int,
    window: int | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    batch, num_blocks = ragged_batch(
        [context for context, _ in lengths], [queries for _, queries in lengths], seed
    )
    kv = cache_of(batch, num_blocks, kv_heads, dim, dtype)
    q = normal(seed, batch.num_tokens, kv_heads * group, dim, dtype=dtype)
    ours = cpu.attention(q, batch, kv, window)
    assert ours.shape == (batch.num_tokens, kv_heads * group * dim)
    assert_close(ours, REFERENCE.attention(q, batch, kv, window))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 700, 100])
def test_attention_equals_its_twin_over_long_contexts(
    cpu: CpuKernels, dtype: torch.dtype, window: int | None
) -> None:
    batch, num_blocks = ragged_batch([1500, 1024, 513, 1300], [1, 1, 1, 450], seed=1)
    kv = cache_of(batch, num_blocks, 2, 64, dtype)
    q = normal(5, batch.num_tokens, 4, 64, dtype=dtype)
    assert_close(cpu.attention(q, batch, kv, window), REFERENCE.attention(q, batch, kv, window))


def test_attention_of_another_head_size_falls_back_to_its_twin(cpu: CpuKernels) -> None:
    batch, num_blocks = ragged_batch([20, 5], [1, 5], seed=2)
    kv = cache_of(batch, num_blocks, 1, 24, torch.float32)
    q = normal(3, batch.num_tokens, 2, 24, dtype=torch.float32)
    assert_close(cpu.attention(q, batch, kv, None), REFERENCE.attention(q, batch, kv, None))


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_outside_the_window_are_never_read(cpu: CpuKernels, dtype: torch.dtype) -> None:
    batch, num_blocks = ragged_batch([200, 200], [1, 20], seed=4)
    kv = cache_of(batch, num_blocks, 1, 32, dtype)
    q = normal(6, batch.num_tokens, 2, 32, dtype=dtype)
    whole = cpu.attention(q, batch, kv, 50)
    tables = batch.block_tables
    tables[0, : (200 - 50) // BLOCK] = -1
    tables[1, : (180 - 49) // BLOCK] = -1
    assert torch.equal(cpu.attention(q, batch, kv, 50), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_decoded_token_does_not_depend_on_its_batch(cpu: CpuKernels, dtype: torch.dtype) -> None:
    contexts = [900, 33, 512, 1]
    batch, num_blocks = ragged_batch(contexts, [1, 1, 1, 1], seed=8)
    kv = cache_of(batch, num_blocks, 2, 64, dtype)
    q = normal(9, 4, 4, 64, dtype=dtype)
    together = cpu.attention(q, batch, kv, None)
    for row, context in enumerate(contexts):
        alone = BatchInput(
            token_ids=batch.token_ids[:1],
            positions=batch.positions[row : row + 1],
            slots=batch.slots[row : row + 1],
            block_tables=batch.block_tables[row : row + 1],
            query_start=torch.tensor([0, 1], dtype=torch.int32),
            context_len=torch.tensor([context], dtype=torch.int32),
            logit_rows=batch.logit_rows,
        )
        assert torch.equal(cpu.attention(q[row : row + 1], alone, kv, None)[0], together[row])


@quick
@given(
    rows=st.integers(0, 40),
    size=st.integers(1, 700),
    dtype=st.sampled_from(DTYPES),
    first=st.booleans(),
)
def test_norm_equals_its_twin(
    cpu: CpuKernels, rows: int, size: int, dtype: torch.dtype, first: bool
) -> None:
    x, weight = normal(1, rows, size, dtype=dtype), normal(2, size, dtype=dtype)
    residual = None if first else normal(3, rows, size, dtype=dtype)
    ours = cpu.rms_norm(x, None if residual is None else residual.clone(), weight, 1e-6)
    theirs = REFERENCE.rms_norm(x, residual, weight, 1e-6)
    assert_close(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@quick
@given(rows=st.integers(0, 20), size=st.integers(1, 300), dtype=st.sampled_from(DTYPES))
def test_gated_activation_equals_its_twin(
    cpu: CpuKernels, rows: int, size: int, dtype: torch.dtype
) -> None:
    gate_up = 20 * normal(4, rows, 2 * size, dtype=dtype)
    assert_close(cpu.silu_mul(gate_up), REFERENCE.silu_mul(gate_up))


@quick
@given(
    lengths=sequences,
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    half=st.integers(1, 64),
    dtype=st.sampled_from(DTYPES),
    normed=st.booleans(),
)
def test_stored_keys_and_values_equal_the_twins(
    cpu: CpuKernels,
    lengths: list[tuple[int, int]],
    kv_heads: int,
    group: int,
    half: int,
    dtype: torch.dtype,
    normed: bool,
) -> None:
    batch, num_blocks = ragged_batch([c for c, _ in lengths], [n for _, n in lengths], seed=7)
    dim, num_heads = 2 * half, kv_heads * group
    norms = [1 + normal(seed, dim, dtype=dtype) if normed else None for seed in (1, 2)]
    heads = HeadShape(num_heads, kv_heads, dim, 1e-6, *norms)
    rope = normal(3, 100, dim, dtype=torch.float32)
    qkv = normal(5, batch.num_tokens, (num_heads + 2 * kv_heads) * dim, dtype=dtype)
    stores = [torch.zeros(num_blocks, 2, kv_heads, BLOCK, dim, dtype=dtype) for _ in range(2)]
    ours = cpu.store_kv(qkv, heads, rope, batch, stores[0])
    theirs = REFERENCE.store_kv(qkv, heads, rope, batch, stores[1])
    assert_close(ours, theirs)
    assert_close(stores[0], stores[1])
    assert torch.equal(stores[0] == 0, stores[1] == 0)


@quick
@given(
    rows=st.integers(0, 30),
    out=st.integers(1, 200),
    half=st.integers(1, 150),
    bias=st.booleans(),
    wide=st.booleans(),
)
def test_streamed_projection_equals_the_float32_product(
    library: ctypes.CDLL, rows: int, out: int, half: int, bias: bool, wide: bool
) -> None:
    weight = normal(1, out, 2 * half, dtype=torch.bfloat16)
    added = normal(2, out, dtype=torch.bfloat16) if bias else None
    x = normal(3, rows, 2 * half, dtype=torch.bfloat16)
    exact = torch.nn.functional.linear(
        x.double(), weight.double(), None if added is None else added.double()
    )
    ours = streamed(library, weight, added, wide)(x)
    assert ours.dtype == (torch.float32 if wide else torch.bfloat16)
    assert_close(ours.bfloat16(), exact.bfloat16())


def test_a_projected_row_does_not_depend_on_the_rows_beside_it(library: ctypes.CDLL) -> None:
    linear = streamed(library, normal(1, 130, 600, dtype=torch.bfloat16), None, False)
    x = normal(2, 500, 600, dtype=torch.bfloat16)
    together = linear(x)
    for count in (1, 2, 5, 8, 13, 100):
        assert torch.equal(linear(x[:count].contiguous()), together[:count])


def test_every_layout_of_a_weight_gives_the_same_product(library: ctypes.CDLL) -> None:
    weight, x = (normal(seed, 64, 96, dtype=torch.bfloat16) for seed in (1, 2))
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    exact = torch.nn.functional.linear(x, weight)
    for linear in (
        cpu_linear(library, weight, None, True),
        OneDnnLinear(packed, None, True),
    ):
        out = linear(x)
        assert out.dtype == torch.float32
        assert_close(out.bfloat16(), exact)
