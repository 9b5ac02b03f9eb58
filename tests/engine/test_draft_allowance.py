"""How many drafts are worth their time, against all the choices that there are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.speculation.allowance import worthwhile
from engine.speculation.record import DraftRecord
from engine.speculation.step_cost import StepCost

COSTS = st.lists(st.floats(0.0, 0.5), min_size=11, max_size=11).map(
    lambda grown: np.cumsum([1.0, *grown])
)


def rate(counts, chances, costs, round_s: float) -> float:
    tokens = sum(sum(p**i for i in range(n + 1)) for p, n in zip(chances, counts, strict=True))
    return tokens / (costs[len(counts) + sum(counts)] + round_s * max(counts))


@settings(max_examples=200)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
    st.integers(0, 8),
    COSTS,
)
def test_no_other_choice_gives_more_tokens_a_second(chances, limits, budget, costs) -> None:
    limits = limits[: len(chances)]
    counts = worthwhile(chances, limits, budget, lambda rows: costs[rows])
    assert sum(counts) <= budget and all(n <= m for n, m in zip(counts, limits, strict=True))
    choices = product(*(range(limit + 1) for limit in limits))
    best = max(rate(c, chances, costs, 0.0) for c in choices if sum(c) <= budget)
    assert rate(counts, chances, costs, 0.0) == pytest.approx(best)


def test_a_drafter_that_takes_as_long_as_the_model_is_not_asked() -> None:
    flat = np.ones(20)
    assert worthwhile([0.9], [4], 8, lambda rows: flat[rows], round_s=1.0) == [0]
    assert worthwhile([0.9], [4], 8, lambda rows: flat[rows], round_s=0.01) == [4]


def test_without_known_costs_every_draft_is_worthwhile() -> None:
    assert worthwhile([0.1, 0.9], [4, 2], 99, lambda rows: np.zeros(len(rows))) == [4, 2]


def test_a_size_is_known_from_its_second_step_and_forgets_a_long_one() -> None:
    cost = StepCost()
    cost.learn(4, 9.0)
    assert not cost.knows(4)
    cost.learn(4, 1.0)
    assert cost.knows(4) and not cost.knows(5)
    assert cost.estimate(np.array([4, 30])).tolist() == [1.0, 1.0]
    for _ in range(2):
        cost.learn(6, 3.0)
    assert cost.estimate(np.array([5])).tolist() == [2.0]


def test_what_was_measured_long_ago_is_measured_again() -> None:
    cost = StepCost()
    for _ in range(2):
        cost.learn(64, 9.0)
    for _ in range(600):
        cost.learn(1, 1.0)
    assert not cost.knows(64)
    assert cost.estimate(np.array([64])).tolist() == [1.0]


def test_acceptance_moves_towards_what_the_drafts_were() -> None:
    record = DraftRecord()
    record.judge(0.5, 4, False)
    assert record.acceptance is not None and 0.5 < record.acceptance < 0.8
    for _ in range(60):
        record.judge(0.5, 0, True)
    assert record.acceptance < 0.01
