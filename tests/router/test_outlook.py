"""What the router expects of a worker beside its steps: the way around the engine."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.load import WorkerLoad
from router.outlook import WorkerForecast
from router.predictor import StepCosts, StepPredictor
from wire.messages import Role, WorkerReport

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
        forecast.transferred(1000, 131_072_000, transfer_s=0.5)
    outlook = forecast.outlook(WorkerLoad())
    assert outlook is not None
    assert outlook.link.token_s == pytest.approx(131_072 / 1e10)
    assert outlook.link.token_bytes == 131_072


def test_a_worker_that_has_not_pulled_takes_a_tokens_weight_from_others_of_its_kind():
    pool = StepPredictor(COSTS)
    one, other = WorkerForecast(pool=pool), WorkerForecast(pool=pool)
    other.measured(1e9)
    one.transferred(1000, 131_072_000, transfer_s=0.5)
    other.renew()
    outlook = other.outlook(WorkerLoad())
    assert outlook is not None
    assert outlook.link.token_bytes == 131_072
    assert outlook.link.token_s == pytest.approx(131_072 / 1e9)


@pytest.mark.parametrize(
    ("unexplained_s", "latency_s"),
    [([], 0.0), ([0.003] * 5 + [2.0], 0.003), ([-0.2] * 5, 0.0), ([1.0] * 9 + [0.01] * 32, 0.01)],
)
def test_what_neither_rate_nor_backlog_explains_of_most_pulls_is_latency(unexplained_s, latency_s):
    forecast = WorkerForecast(COSTS)
    for excess_s in unexplained_s:
        forecast.exposed(0.4, 0.4 + excess_s)
    outlook = forecast.outlook(WorkerLoad())
    assert outlook is not None
    assert outlook.link.latency_s == pytest.approx(latency_s)


def outlook_of(num_seqs, num_coming, context=0, coming=0):
    load = WorkerLoad()
    found = WorkerForecast(COSTS).outlook(load)
    assert found is not None
    return replace(
        found,
        num_seqs=num_seqs,
        context_tokens=context,
        num_coming=num_coming,
        coming_tokens=coming,
        tpot_s=0.01,
    )


def test_of_those_that_wait_long_few_come_while_a_prompt_that_is_computed_at_once_is_answered():
    outlook = outlook_of(9, 4, 900, 400)  # an answer takes 2 s
    soon, late = (outlook.batch_in(0.0, 200, over_s) for over_s in (1.0, 20.0))
    assert 5 < soon[0] <= 9 and soon[1] == pytest.approx(100 * soon[0])
    assert late == (5, 500)


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0.0, 100), st.floats(0.0, 100))
def test_what_decodes_is_replaced_as_it_ends_and_what_comes_is_spread_over_the_queue(
    running, coming, wait_s, over_s
):
    num_seqs, context = outlook_of(
        running + coming, coming, 100 * (running + coming), 100 * coming
    ).batch_in(wait_s, 200, over_s)
    assert running <= num_seqs <= running + coming
    assert context == pytest.approx(100 * num_seqs)


@given(
    st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.floats(0.0, 9), st.floats(0.0, 9)
)
def test_a_report_that_misses_accepted_legs_makes_no_batch_of_less_than_nobody(
    num_running, num_accepted, num_reserved, wait_s, over_s
):
    load = WorkerLoad()
    for leg_id in range(num_accepted + num_reserved):
        load.reserve(leg_id, compute_tokens=50, new_tokens=50, num_tokens=100)
    for leg_id in range(num_accepted):
        load.accepted(leg_id, num_tokens=100, num_cached_tokens=0)
    load.reported(WorkerReport(Role.DECODE, num_running=num_running, num_blocks=100))
    outlook = WorkerForecast(COSTS).outlook(load)
    assert outlook is not None
    assert outlook.num_coming <= outlook.num_seqs
    assert all(count >= 0 for count in outlook.batch_in(wait_s, 200, over_s))


def test_of_a_long_queue_only_those_decode_at_once_whose_answers_last():
    assert outlook_of(100, 100).batch_in(20.0, 200, 20.0)[0] == pytest.approx(9.5, rel=0.01)


def test_the_pace_of_answers_is_shared_by_workers_of_equal_hardware():
    pool = StepPredictor(COSTS)
    one, other = WorkerForecast(COSTS, pool), WorkerForecast(COSTS, pool)
    for index in range(20):
        one.decoded(0.01, 0.011 if index % 2 else 0.013)
    before = other.outlook(WorkerLoad())
    other.renew()
    found = other.outlook(WorkerLoad())
    assert before is not None and found is not None
    assert (before.pace_margin, found.pace_margin) == (1.0, pytest.approx(1.3))
