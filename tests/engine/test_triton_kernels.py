"""Each Triton kernel against float64, on a GPU or in Triton's interpreter.

Triton fixes at its import whether kernels are interpreted, so without a GPU these tests run in a
process of their own, which test_triton_interpreter.py starts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

triton = pytest.importorskip("triton")

from engine.kernels import BatchInput, HeadShape  # noqa: E402
from engine.kernels.triton_kernels import TritonKernels  # noqa: E402
from engine.kernels.triton_kernels.decode_attention import (  # noqa: E402
    choose_splits,
    decode_attention,
)
from engine.kernels.triton_kernels.gather import gather_blocks, scatter_blocks  # noqa: E402
from engine.kernels.triton_kernels.kernel_set import hopper_support  # noqa: E402
from engine.kernels.triton_kernels.prefill_attention import prefill_attention  # noqa: E402
from engine.kernels.triton_kernels.row_product import takes  # noqa: E402

INTERPRETED = bool(triton.knobs.runtime.interpret)
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")
pytestmark = pytest.mark.skipif(
    not INTERPRETED and DEVICE.type == "cpu", reason="test_triton_interpreter.py runs them"
)

BLOCK = 16
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.5e-2}  # the interpreter truncates to bf16
DTYPES = [torch.float32, torch.bfloat16]
KERNELS = TritonKernels()


@pytest.fixture(autouse=True, scope="module")
def interpreted_bfloat16() -> Iterator[None]:
    """The interpreter keeps bf16 as 16-bit integers and multiplies those; widen them first."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    plain = builder.create_dot

    def dot(self: object, a: object, b: object, *rest: object) -> object:
        if a.dtype == tl.bfloat16:
            a, b = (builder.cast_impl(self, x, tl.float32) for x in (a, b))
        return plain(self, a, b, *rest)

    builder.create_dot = dot
    yield
    builder.create_dot = plain


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + 31 * seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def assert_close(out: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Relative to the norm, so that a NaN or an unwritten element fails."""
    out, expected = out.double().cpu(), expected.double().cpu()
    assert out.shape == expected.shape
    error = (out - expected).norm() / expected.norm().clamp(min=1e-9)
    assert error < TOLERANCE[dtype], f"relative error {error:.2e}"


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences in one batch: query tokens and context of each, and how the heads split."""

    lengths: tuple[tuple[int, int], ...]  # (num_queries, context)
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    window: int | None = None
    dtype: torch.dtype = torch.float32

    @property
    def num_blocks(self) -> int:
        return sum(-(-context // BLOCK) for _, context in self.lengths) + 3


@dataclass(frozen=True, slots=True)
class Case:
    batch: BatchInput
    q: Tensor
    layer_kv: Tensor  # NaN wherever no key or value is stored, and in blocks below the window
    expected: Tensor


def batch_of(ragged: Ragged, seed: int = 0) -> BatchInput:
    """Scattered blocks; those that the window has passed are -1, as after they were freed."""
    order = torch.randperm(
        ragged.num_blocks, generator=torch.Generator().manual_seed(seed)
    ).tolist()
    width = max(-(-context // BLOCK) for _, context in ragged.lengths) + 2
    tables, positions, slots, starts = [], [], [], [0]
    for queries, context in ragged.lengths:
        table = [order.pop() for _ in range(-(-context // BLOCK))]
        for position in range(context - queries, context):
            positions.append(position)
            slots.append(table[position // BLOCK] * BLOCK + position % BLOCK)
        if ragged.window is not None:
            gone = max(context - queries - ragged.window + 1, 0) // BLOCK
            table[:gone] = [-1] * gone
        tables.append(table + [-1] * (width - len(table)))
        starts.append(len(positions))
    return BatchInput(
        token_ids=torch.zeros(len(positions), dtype=torch.int64, device=DEVICE),
        positions=torch.tensor(positions, device=DEVICE),
        slots=torch.tensor(slots, device=DEVICE),
        block_tables=torch.tensor(tables, dtype=torch.int32, device=DEVICE),
        query_start=torch.tensor(starts, dtype=torch.int32, device=DEVICE),
        context_len=torch.tensor(
            [context for _, context in ragged.lengths], dtype=torch.int32, device=DEVICE
        ),
        logit_rows=torch.tensor([0], device=DEVICE),
    )


def case_of(ragged: Ragged, seed: int = 0) -> Case:
    batch = batch_of(ragged, seed)
    heads, kv_heads, dim = ragged.num_heads, ragged.num_kv_heads, ragged.head_dim
    q = randn(batch.num_tokens, heads, dim, dtype=ragged.dtype, seed=seed)
    layer_kv = torch.full((ragged.num_blocks, 2, kv_heads, BLOCK, dim), float("nan"))
    layer_kv = layer_kv.to(DEVICE, ragged.dtype)
    expected, row = torch.empty(q.shape, dtype=torch.float64, device=DEVICE), 0
    for sequence, (queries, context) in enumerate(ragged.lengths):
        keys, values = (
            randn(context, kv_heads, dim, dtype=ragged.dtype, seed=seed + 7 * sequence + side)
            for side in (1, 2)
        )
        table = batch.block_tables[sequence].tolist()
        for position in range(context):
            block = table[position // BLOCK]
            if block >= 0:
                layer_kv[block, 0, :, position % BLOCK] = keys[position]
                layer_kv[block, 1, :, position % BLOCK] = values[position]
        for position in range(context - queries, context):
            expected[row] = attend(q[row], keys, values, position, ragged.window)
            row += 1
    return Case(batch, q, layer_kv, expected)


def attend(q: Tensor, keys: Tensor, values: Tensor, position: int, window: int | None) -> Tensor:
    """One token in float64: q [num_heads, dim] over keys [context, kv_heads, dim]."""
    first = 0 if window is None else max(position - window + 1, 0)
    group = q.shape[0] // keys.shape[1]
    k, v = (
        x[first : position + 1].double().repeat_interleave(group, dim=1) for x in (keys, values)
    )
    scores = torch.einsum("hd,khd->hk", q.double(), k) * q.shape[1] ** -0.5
    return torch.einsum("hk,khd->hd", scores.softmax(-1), v)


def check_attention(ragged: Ragged, seed: int = 0) -> None:
    case = case_of(ragged, seed)
    out = KERNELS.attention(case.q, case.batch, case.layer_kv, ragged.window)
    assert_close(out, case.expected.flatten(1), ragged.dtype)


HEADS = [(4, 4), (4, 2), (3, 1), (4, 1), (10, 2), (6, 1), (7, 1), (8, 1)]  # 1..8 heads share keys


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
def test_a_mixed_batch_attends_for_every_grouping_of_heads(
    heads: tuple[int, int], dtype: torch.dtype
) -> None:
    lengths = ((1, 37), (19, 19), (5, 60), (1, 1), (33, 50))
    check_attention(Ragged(lengths, heads[0], heads[1], dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 80, 128])
def test_attention_takes_any_head_dim(head_dim: int, dtype: torch.dtype) -> None:
    check_attention(Ragged(((40, 75), (1, 100)), head_dim=head_dim, dtype=dtype))


@pytest.mark.parametrize("window", [1, 16, 17, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_window_hides_old_keys_whose_blocks_may_be_gone(window: int, dtype: torch.dtype) -> None:
    lengths = ((1, 90), (40, 120), (70, 70), (1, 3))
    check_attention(Ragged(lengths, window=window, dtype=dtype))


@pytest.mark.parametrize("window", [None, 200])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_processors", [1, 3, 132])
def test_decode_splits_along_the_keys_give_the_same_output(
    num_processors: int, dtype: torch.dtype, window: int | None
) -> None:
    lengths = ((1, 450), (1, 311), (1, 17), (1, 256))
    ragged = Ragged(lengths, window=window, dtype=dtype)
    case = case_of(ragged)
    out = torch.full_like(case.q, float("nan"))
    decode_attention(case.q, case.batch, case.layer_kv, window, out, num_processors)
    assert_close(out, case.expected, dtype)


@settings(
    max_examples=2 if INTERPRETED else 8,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@given(
    lengths=st.lists(
        st.tuples(st.one_of(st.just(1), st.integers(1, 90)), st.integers(0, 140)).map(
            lambda pair: (pair[0], pair[0] + pair[1])
        ),
        min_size=1,
        max_size=5,
    ),
    heads=st.sampled_from(HEADS),
    window=st.one_of(st.none(), st.integers(1, 150)),
    seed=st.integers(0, 1000),
)
def test_attention_equals_float64_for_ragged_batches(
    head_dim: int,
    dtype: torch.dtype,
    lengths: list[tuple[int, int]],
    heads: tuple[int, int],
    window: int | None,
    seed: int,
) -> None:
    check_attention(Ragged(tuple(lengths), *heads, head_dim, window, dtype), seed)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="Gluon has no interpreter")
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1), (8, 1), (16, 1)])
@pytest.mark.parametrize(
    "lengths",
    [
        ((2, 2),),
        ((16, 16), (17, 33), (128, 128), (129, 129)),
        ((300, 700), (1, 50), (257, 1025), (2, 1000)),
        ((640, 640), (33, 2050)),
    ],
)
def test_the_hopper_kernel_attends_over_ragged_chunks(
    heads: tuple[int, int], lengths: tuple[tuple[int, int], ...]
) -> None:
    case = case_of(Ragged(lengths, *heads, head_dim=128, dtype=torch.bfloat16))
    hopper = hopper_support(triton.__version__)
    if hopper is None or not hopper.takes(case.q, case.layer_kv, None):
        pytest.skip("this device takes the portable kernel")
    out = torch.full_like(case.q, float("nan"))
    hopper.hopper_prefill(case.q, case.batch, case.layer_kv, out, min_queries=2)
    decode_attention(case.q, case.batch, case.layer_kv, None, out, num_processors=132)
    assert_close(out, case.expected, torch.bfloat16)


def test_each_attention_kernel_writes_the_rows_of_its_sequences_only() -> None:
    case = case_of(Ragged(((1, 20), (6, 30), (1, 5))))
    out = torch.full_like(case.q, float("nan"))
    decode_attention(case.q, case.batch, case.layer_kv, None, out, num_processors=1)
    assert out.isnan().all(dim=(1, 2)).tolist() == [False, *[True] * 6, False]
    prefill_attention(case.q, case.batch, case.layer_kv, None, out, min_queries=2)
    assert_close(out, case.expected, torch.float32)


@pytest.mark.parametrize("num_processors", [1, 132])
def test_a_padding_sequence_gives_zeros_and_reads_nothing(num_processors: int) -> None:
    case = case_of(Ragged(((1, 400), (1, 30))))
    lengths = case.batch.context_len.clone()
    lengths[1] = 0
    tables = case.batch.block_tables.clone()
    tables[1] = -1
    padded = replace(case.batch, context_len=lengths, block_tables=tables)
    out = torch.full_like(case.q, float("nan"))
    decode_attention(case.q, padded, case.layer_kv, None, out, num_processors)
    assert_close(out[0], case.expected[0], torch.float32)
    assert (out[1] == 0).all()


@given(programs=st.integers(1, 4096), context=st.integers(16, 1 << 20))
def test_splits_fill_the_processors_and_never_get_short(programs: int, context: int) -> None:
    splits = choose_splits(programs, context, num_processors=132)
    assert 1 <= splits <= 128
    assert splits == 1 or context // splits >= 128


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [32, 96, 1000, 1024])
@pytest.mark.parametrize("has_residual", [True, False])
def test_rms_norm_adds_the_residual_in_place(
    hidden: int, dtype: torch.dtype, has_residual: bool
) -> None:
    x, weight = randn(5, hidden, dtype=dtype), randn(hidden, dtype=dtype)
    residual = randn(5, hidden, dtype=dtype, seed=1) if has_residual else None
    total = x.double() if residual is None else x.double() + residual.double()
    scale = (total.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    normed, kept = KERNELS.rms_norm(x, residual, weight, 1e-5)
    assert_close(normed, total * scale * weight.double(), dtype)
    assert_close(kept, total, dtype)
    assert kept is (x if residual is None else residual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [24, 1000, 1500])
def test_silu_mul_gates_each_row(inner: int, dtype: torch.dtype) -> None:
    gate_up = randn(3, 2 * inner, dtype=dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert_close(KERNELS.silu_mul(gate_up), gate * gate.sigmoid() * up, dtype)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    "rows,out_features,in_features", [(1, 40, 512), (1, 16, 1024), (1, 99, 1536)]
)
def test_one_row_times_a_large_weight(
    rows: int, out_features: int, in_features: int, has_bias: bool, wide: bool
) -> None:
    x = randn(rows, in_features, dtype=torch.bfloat16)
    weight = randn(out_features, in_features, dtype=torch.bfloat16, seed=1)
    bias = randn(out_features, dtype=torch.bfloat16, seed=2) if has_bias else None
    linear = KERNELS.linear(weight, bias, wide)
    assert takes(x, weight)
    expected = x.double() @ weight.double().T + (bias.double() if has_bias else 0.0)
    out = linear(x)
    assert out.dtype == (torch.float32 if wide else torch.bfloat16)
    assert_close(out, expected, torch.bfloat16)


@pytest.mark.parametrize("rows,in_features", [(2, 512), (0, 512), (1, 96)])
def test_other_products_are_left_to_torch(rows: int, in_features: int) -> None:
    x = randn(rows, in_features, dtype=torch.bfloat16)
    weight = randn(24, in_features, dtype=torch.bfloat16, seed=1)
    linear = KERNELS.linear(weight, None)
    assert not takes(x, weight)
    assert torch.equal(linear(x), torch.nn.functional.linear(x, weight))


def rotated(x: Tensor, rope: Tensor) -> Tensor:
    cos, sin = rope.double().unsqueeze(1).chunk(2, dim=-1)
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    if weight is None:
        return x
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize(
    "heads,kv_heads,dim", [(4, 2, 64), (6, 3, 16), (1, 1, 32), (7, 1, 128), (3, 3, 80)]
)
def test_store_kv_writes_the_slots_of_its_tokens_and_nothing_else(
    heads: int, kv_heads: int, dim: int, has_norm: bool, dtype: torch.dtype
) -> None:
    ragged = Ragged(((1, 40), (23, 50), (4, 4)), heads, kv_heads, dim, None, dtype)
    batch = batch_of(ragged)
    batch.slots[3] = -1
    weights = [randn(dim, dtype=dtype, seed=s) if has_norm else None for s in (1, 2)]
    shape = HeadShape(heads, kv_heads, dim, 1e-6, *weights)
    rope = randn(64, dim, dtype=torch.float32)
    qkv = randn(batch.num_tokens, (heads + 2 * kv_heads) * dim, dtype=dtype)
    layer_kv = randn(ragged.num_blocks, 2, kv_heads, BLOCK, dim, dtype=dtype, seed=5)
    expected = layer_kv.double()

    out = KERNELS.store_kv(qkv, shape, rope, batch, layer_kv)

    split = qkv.double().view(batch.num_tokens, -1, dim).split((heads, kv_heads, kv_heads), 1)
    rows = rope[batch.positions]
    assert_close(out, rotated(normed(split[0], weights[0], 1e-6), rows), dtype)
    k = rotated(normed(split[1], weights[1], 1e-6), rows)
    untouched = torch.ones(layer_kv.shape, dtype=torch.bool)
    for token, slot in enumerate(batch.slots.tolist()):
        if slot >= 0:
            expected[slot // BLOCK, 0, :, slot % BLOCK] = k[token]
            expected[slot // BLOCK, 1, :, slot % BLOCK] = split[2][token]
            untouched[slot // BLOCK, :, :, slot % BLOCK] = False
    assert_close(layer_kv, expected, dtype)
    assert torch.equal(layer_kv.double().cpu()[untouched], expected.cpu()[untouched])


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_come_out_packed_and_go_back_where_the_ids_say(dtype: torch.dtype) -> None:
    kv = randn(3, 9, 2, 2, BLOCK, 24, dtype=dtype)
    ids = torch.tensor([7, 0, -1, 3], device=DEVICE)
    packed = gather_blocks(kv, ids)
    assert torch.equal(packed[:, [0, 1, 3]], kv[:, [7, 0, 3]])
    assert (packed[:, 2] == 0).all()
    target = randn(3, 9, 2, 2, BLOCK, 24, dtype=dtype, seed=4)
    expected = target.clone()
    expected[:, [2, 8, 5]] = kv[:, [7, 0, 3]]
    scatter_blocks(packed, torch.tensor([2, 8, -1, 5], device=DEVICE), target)
    assert torch.equal(target, expected)


def test_no_tokens_and_no_blocks_are_no_work() -> None:
    x = torch.empty((0, 32), device=DEVICE)
    assert KERNELS.rms_norm(x, None, torch.ones(32, device=DEVICE), 1e-5)[0].shape == (0, 32)
    assert KERNELS.silu_mul(x).shape == (0, 16)
    kv = randn(2, 3, 2, 1, BLOCK, 16, dtype=torch.float32)
    assert gather_blocks(kv, torch.empty(0, dtype=torch.int64, device=DEVICE)).shape[1] == 0
