"""What the router expects of a worker beside its steps: the way around the engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.load import WorkerLoad
from router.outlook import WorkerForecast
from router.predictor import StepCosts

COSTS = StepCosts(5e-3, 8e-6, 34e-9, 0.0, 25e-6, 6e-10)


def path_s(errors_s):
    forecast = WorkerForecast(COSTS)
    for error_s in errors_s:
        forecast.answered(0.1, 0.1 + error_s)
    outlook = forecast.outlook(WorkerLoad())
    assert outlook is not None
    return outlook.path_s


def test_a_worker_that_has_not_answered_is_thought_to_have_no_way():
    assert path_s([]) == 0.0


def test_one_slow_answer_does_not_lengthen_the_way():
    assert path_s([0.01] * 9 + [5.0]) == pytest.approx(0.01)


def test_answers_that_come_sooner_than_predicted_do_not_make_the_way_negative():
    assert path_s([-0.05] * 9) == 0.0


@given(st.lists(st.floats(0, 10), min_size=40, max_size=60))
def test_only_the_last_answers_count(errors_s):
    assert path_s([*errors_s, *[0.02] * 32]) == pytest.approx(0.02)


def test_the_measured_way_tells_the_rate_that_pulls_beside_their_prefill_hide():
    forecast = WorkerForecast(COSTS)
    forecast.measured(1e10)
    for _ in range(5):
        forecast.transferred(1000, 131_072_000, transfer_s=0.5, exposed_s=0.01)
    outlook = forecast.outlook(WorkerLoad())
    assert outlook is not None
    assert outlook.link.token_s == pytest.approx(131_072 / 1e10)
    assert outlook.link.token_bytes == 131_072
