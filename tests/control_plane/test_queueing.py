"""Queues against closed forms, demand against its definition, forecasts against theirs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_cases import COSTS, PROFILE, traffic

from control_plane.planner.demand import WorkerModel, decode_demand, prefill_demand
from control_plane.planner.forecast import HoltWinters, RateForecast
from control_plane.planner.queueing import late_probability, max_load, wait_probability
from control_plane.planner.types import Objectives

MODEL = WorkerModel(COSTS, PROFILE.kv_tokens, PROFILE.max_num_seqs)


def test_one_server_waits_with_the_probability_of_its_load() -> None:
    assert wait_probability(1, 0.7) == pytest.approx(0.7)


@pytest.mark.parametrize(("servers", "load"), [(2, 1.5), (5, 4.0), (30, 27.5)])
def test_erlangs_formula_agrees_with_its_sum(servers: int, load: float) -> None:
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    others = sum(load**k / math.factorial(k) for k in range(servers))
    assert wait_probability(servers, load) == pytest.approx(last / (others + last))


def test_the_tail_of_one_exponential_server_is_exact() -> None:
    assert late_probability(1, 0.8, 0.5, 1.0, 2.0) == pytest.approx(0.8 * math.exp(-0.2 / 0.5 * 2))


@given(st.integers(1, 200), st.floats(0.01, 5), st.floats(0, 5), st.floats(0.01, 10))
def test_the_carried_load_is_late_as_often_as_allowed(
    servers: int, service_s: float, cv2: float, slack_s: float
) -> None:
    load = max_load(servers, service_s, cv2, slack_s, 0.03)
    assert 0 <= load <= servers
    assert late_probability(servers, load, service_s, cv2, slack_s) <= 0.03 + 1e-6


@given(st.floats(0.1, 300), st.floats(1, 20_000), st.floats(1, 2000))
def test_the_needed_workers_are_the_least_that_are_enough(
    rate: float, prompt: float, output: float
) -> None:
    load, objectives = traffic(rate, prompt, output), Objectives()
    for demand in (
        prefill_demand(load, MODEL, objectives),
        decode_demand(load, MODEL, objectives),
    ):
        count = demand.workers()
        assert demand.pressure(count) <= 1 + 1e-3
        assert count <= 1 or demand.pressure(count - 1) > 1 - 1e-3


def test_a_batch_keeps_the_objective_and_fits_the_memory() -> None:
    for context in (100, 2000, 50_000):
        batch = MODEL.batch(context, 0.05)
        assert MODEL.itl_s(batch, context) <= 0.95 * 0.05 + 1e-9 or batch == 1
        assert batch * context <= 0.95 * PROFILE.kv_tokens + 1e-6 or batch == 1


def test_holt_winters_agrees_with_its_recursion_written_out() -> None:
    model = HoltWinters(level_weight=0.4, trend_weight=0.2, damping=0.9)
    values = [10.0, 12.0, 11.0, 15.0, 18.0]
    level, trend = values[0], 0.0
    model.observe(values[0])
    for value in values[1:]:
        model.observe(value)
        before = level
        level = 0.4 * value + 0.6 * (level + 0.9 * trend)
        trend = 0.2 * (level - before) + 0.8 * 0.9 * trend
    assert model.forecast(3) == pytest.approx(level + (0.9 + 0.81 + 0.729) * trend)


def test_a_line_is_forecast_as_a_line_without_damping() -> None:
    model = HoltWinters(level_weight=0.5, trend_weight=0.5, damping=1.0)
    for step in range(200):
        model.observe(5 + 2.0 * step)
    assert model.forecast(10) == pytest.approx(5 + 2.0 * 209, rel=1e-3)


def test_a_cycle_is_forecast_a_cycle_ahead() -> None:
    wave = [100 + 50 * math.sin(2 * math.pi * step / 24) for step in range(24)]
    model = HoltWinters(season=24)
    for _ in range(20):
        for value in wave:
            model.observe(value)
    for ahead in range(1, 25):
        assert model.forecast(ahead) == pytest.approx(wave[ahead - 1], rel=0.03)


def test_a_forecast_raises_and_never_cuts() -> None:
    falling = RateForecast(5.0)
    for step in range(50):
        falling.observe(5.0 * step, 1000.0 - 15 * step)
    assert falling.growth(60.0, 265.0) == 1.0
    rising = RateForecast(5.0)
    for step in range(50):
        rising.observe(5.0 * step, 100.0 + 10 * step)
    assert 1.0 < rising.growth(60.0, 590.0) <= 2.0


def test_a_gap_starts_the_forecast_afresh() -> None:
    series = RateForecast(5.0)
    for step in range(50):
        series.observe(5.0 * step, 100.0 + 10 * step)
    series.observe(5000.0, 600.0)
    assert series.growth(60.0, 600.0) == 1.0
