"""The sampler against closed forms, a slow numpy reading of the definitions, and statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.counter_random import uniform
from engine.draw import NO_TOKEN, kept_tokens
from engine.sampler import SampleRow, sample
from engine.token_history import TokenHistory
from wire.messages import SamplingParams

PLAIN = SamplingParams()
GREEDY = SamplingParams(temperature=0.0)


def logits_of(num_rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab, generator=generator) * scale


def history_of(prompt: list[int], outputs: list[int]) -> TokenHistory:
    return TokenHistory(np.array(prompt, dtype=np.int64), np.array(outputs, dtype=np.int64))


def kept_slowly(logits: np.ndarray, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """Which tokens one row may draw, by the definitions, in float64."""
    logits = logits.astype(np.float64)
    kept = np.ones(len(logits), dtype=bool)
    probabilities = np.exp(logits - logits.max())
    if min_p > 0:
        kept &= probabilities >= min_p
    if top_k:
        kept &= logits >= np.sort(logits)[::-1][min(top_k, len(logits)) - 1]
    if top_p < 1:
        order = np.argsort(-logits, kind="stable")
        order = order[kept[order]]
        share = np.cumsum(probabilities[order]) / probabilities[kept].sum()
        kept &= logits >= logits[order[min(np.searchsorted(share, top_p), len(order) - 1)]]
    return kept


def test_greedy_takes_the_largest_logit_of_each_row() -> None:
    logits = logits_of(5, 1000)
    expected = logits.argmax(-1).tolist()
    assert sample(logits.clone(), [SampleRow(GREEDY, i) for i in range(5)]) == expected
    mixed = [SampleRow(GREEDY if i % 2 else PLAIN, i) for i in range(5)]
    assert sample(logits, mixed)[1::2] == expected[1::2]


def test_no_rows_give_no_tokens() -> None:
    assert sample(torch.empty(0, 100), []) == []


@settings(max_examples=150)
@given(
    vocab=st.integers(2, 700),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 0.999) | st.just(1.0),  # nearer to 1 float32 shares round away
    min_p=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    scale=st.sampled_from([0.0, 0.1, 3.0, 30.0]),
    seed=st.integers(0, 10_000),
)
def test_the_kept_set_is_that_of_the_definitions(
    vocab: int, top_k: int, top_p: float, min_p: float, scale: float, seed: int
) -> None:
    row = logits_of(1, vocab, seed, scale)[0]
    params = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p)
    shares = row.softmax(-1).numpy()
    kept = [token for token in kept_tokens(shares, params) if shares[token] > 0]
    possible = kept_slowly(row.numpy(), top_k, top_p, min_p) & (shares > 0)
    expected = np.flatnonzero(possible)
    # A sum of shares within rounding of top_p may keep one token more or fewer.
    assert abs(len(kept) - len(expected)) <= 1 or scale == 0.0
    assert set(kept) <= set(expected) or set(expected) <= set(kept)
    if scale == 0.0:
        assert len(kept) == len(expected) == vocab


@pytest.mark.parametrize("vocab", [300, 9000, 40_000])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(0, 0.95, 0.0), (0, 0.95, 0.7), (0, 1.0, 0.7), (250, 1.0, 0.0), (250, 0.5, 0.0)],
)
def test_a_flat_distribution_is_truncated_exactly(
    vocab: int, top_k: int, top_p: float, min_p: float
) -> None:
    row = torch.linspace(0.0, 0.5, vocab)
    kept = kept_tokens(
        row.softmax(-1).numpy(), SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p)
    )
    expected = kept_slowly(row.numpy(), top_k, top_p, min_p)
    assert abs(len(kept) - int(expected.sum())) <= 1 + vocab // 3000  # equal floats at the edge


def test_every_draw_lies_in_its_kept_set() -> None:
    rows = [
        SampleRow(
            SamplingParams(temperature=0.7, top_k=5, seed=i),
            position=i,
        )
        for i in range(64)
    ]
    logits = logits_of(64, 5000)
    best = logits.topk(5).indices.tolist()
    for token, allowed in zip(sample(logits, rows), best, strict=True):
        assert token in allowed


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_k=1),
        SamplingParams(top_p=1e-9),
        SamplingParams(min_p=1.0),
        SamplingParams(temperature=1e-4),
    ],
)
def test_a_set_of_one_is_greedy(params: SamplingParams) -> None:
    logits = logits_of(8, 400)
    expected = logits.argmax(-1).tolist()
    assert sample(logits, [SampleRow(params, i) for i in range(8)]) == expected


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=2.0, top_p=0.8),
        SamplingParams(top_k=6),
        SamplingParams(min_p=0.1),
    ],
)
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    num_draws, vocab = 20_000, 24
    row = logits_of(1, vocab, seed=7, scale=1.5)
    scaled = row[0].numpy() / params.temperature
    kept = kept_slowly(scaled, params.top_k, params.top_p, params.min_p)
    expected = np.where(kept, np.exp(scaled - scaled.max()), 0.0)
    expected *= num_draws / expected.sum()
    rows = [SampleRow(replace(params, seed=i % 100), i // 100) for i in range(num_draws)]
    tokens = sample(row.expand(num_draws, vocab).clone(), rows)
    observed = np.bincount(tokens, minlength=vocab)
    assert observed[~kept].sum() == 0
    chi_square = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    degrees = kept.sum() - 1
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees)


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    logits = logits_of(40, 3000)
    rows = [SampleRow(SamplingParams(top_p=0.9, seed=i % 3), i) for i in range(40)]
    together = sample(logits.clone(), rows)
    alone = [sample(logits[i : i + 1].clone(), [rows[i]])[0] for i in range(40)]
    assert together == alone
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = sample(logits[order].clone(), [rows[i] for i in order])
    assert shuffled == [together[i] for i in order]


def test_positions_and_seeds_draw_independently() -> None:
    grid = np.array([uniform([seed] * 300, list(range(300))) for seed in range(300)])
    assert grid.min() >= 0.0 and grid.max() < 1.0
    assert abs(grid.mean() - 0.5) < 0.005
    for shifted in (grid[1:] - 0.5, grid[:, 1:] - 0.5):
        other = (grid - 0.5)[: shifted.shape[0], : shifted.shape[1]]
        assert abs((shifted * other).mean() * 12) < 0.02
    assert len(np.unique(grid)) == grid.size


def test_any_64_bit_seed_is_a_seed() -> None:
    numbers = uniform([0, -1, 2**63, 2**64 - 1, -(2**63)], [0] * 5)
    assert numbers[1] == numbers[3] and numbers[2] == numbers[4]
    assert len(set(numbers.tolist())) == 3


def test_the_last_token_of_the_vocabulary_can_be_drawn_and_banned_ones_cannot() -> None:
    logits = torch.full((200, 513), float("-inf"))
    logits[:, [0, 512]] = 0.0
    rows = [SampleRow(SamplingParams(seed=i), 0) for i in range(200)]
    assert set(sample(logits.clone(), rows)) == {0, 512}
    banned = [SampleRow(row.params, 0, banned=(0,)) for row in rows]
    assert set(sample(logits, banned)) == {512}


def test_a_ban_holds_for_greedy_rows_too() -> None:
    logits = logits_of(2, 50)
    best = int(logits[0].argmax())
    tokens = sample(logits.clone(), [SampleRow(GREEDY, 0, banned=(best,)), SampleRow(GREEDY, 0)])
    logits[0, best] = -1e9
    assert tokens == logits.argmax(-1).tolist()


@settings(max_examples=60)
@given(
    prompt=st.lists(st.integers(0, 29), max_size=20),
    outputs=st.lists(st.integers(0, 29), max_size=20),
    repetition=st.sampled_from([1.0, 1.3, 0.7]),
    presence=st.sampled_from([0.0, 0.6, -1.0]),
    frequency=st.sampled_from([0.0, 0.4, -0.3]),
    seed=st.integers(0, 1000),
)
def test_penalties_equal_their_definitions(
    prompt: list[int],
    outputs: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    seed: int,
) -> None:
    params = SamplingParams(
        temperature=0.0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    logits = logits_of(3, 30, seed)
    expected = logits[1].clone()
    for token in set(prompt + outputs):
        value = expected[token]
        expected[token] = value / repetition if value > 0 else value * repetition
        count = outputs.count(token)
        expected[token] -= frequency * count + presence * (count > 0)
    plain = logits.clone()
    rows = [
        SampleRow(GREEDY, 0),
        SampleRow(params, 0, history=history_of(prompt, outputs)),
        SampleRow(GREEDY, 0),
    ]
    sample(logits, rows)
    assert torch.allclose(logits[1], expected, atol=1e-5)
    assert logits[[0, 2]].equal(plain[[0, 2]])


@given(
    prompt=st.lists(st.integers(0, 400), max_size=150),
    outputs=st.lists(st.integers(0, 400), max_size=300),
)
def test_a_history_kept_token_by_token_equals_one_made_at_once(
    prompt: list[int], outputs: list[int]
) -> None:
    kept = history_of(prompt, [])
    for token in outputs:
        kept.append(token)
    made = history_of(prompt, outputs)
    assert dict(zip(kept.ids.tolist(), kept.output_counts.tolist(), strict=True)) == dict(
        zip(made.ids.tolist(), made.output_counts.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    "params", [GREEDY, PLAIN, SamplingParams(top_p=0.9), SamplingParams(top_k=3)]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_no_token_and_leaves_the_others_alone(
    params: SamplingParams, value: float
) -> None:
    logits = logits_of(3, 700)
    rows = [SampleRow(params, i) for i in range(3)]
    expected = sample(logits.clone(), rows)
    logits[1, 300] = value
    assert sample(logits, rows) == [expected[0], NO_TOKEN, expected[2]]
