"""Arrival times against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import (
    GapProcess,
    RateSegment,
    arrival_times,
    spiked,
    spread_in_ticks,
)
from loadtest.errors import LoadtestError
from loadtest.lengths import parse_lengths
from loadtest.quantities import parse_duration_s, parse_rate

CONSTANT = GapProcess("constant")
rates = st.floats(0.0, 50.0)
segments = st.lists(
    st.builds(RateSegment, st.floats(0.1, 30.0), rates, rates), min_size=1, max_size=4
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_constant_arrivals_are_a_grid() -> None:
    times = arrival_times([RateSegment(2.0, 5, 5)], CONSTANT, rng())
    assert times == pytest.approx(np.arange(1, 11) / 5)


def test_a_ramp_of_constant_gaps_follows_the_square_root() -> None:
    """From 0 to r over d seconds the cumulative rate is r t^2 / 2d, so arrival k is at its root."""
    times = arrival_times([RateSegment(10.0, 0, 8)], CONSTANT, rng())
    assert times == pytest.approx([math.sqrt(2 * 10 * k / 8) for k in range(1, 41)])


def test_a_falling_ramp_mirrors_a_rising_one() -> None:
    up = arrival_times([RateSegment(10.0, 0, 8)], CONSTANT, rng())
    down = arrival_times([RateSegment(10.0, 8, 0)], CONSTANT, rng())
    assert len(down) == len(up)
    assert 10.0 - down[:-1] == pytest.approx(up[:-1][::-1])


def test_poisson_gaps_have_their_mean_and_deviation() -> None:
    times = arrival_times([RateSegment(4000.0, 5, 5)], GapProcess("poisson"), rng(3))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps.std() == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_have_the_deviation_of_their_shape(burstiness: float) -> None:
    """The coefficient of variation of a gamma gap is 1 / sqrt(shape)."""
    times = arrival_times([RateSegment(6000.0, 4, 4)], GapProcess("gamma", burstiness), rng(4))
    gaps = np.diff(times)
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(burstiness), rel=0.05)
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)


def test_counts_of_poisson_arrivals_vary_as_their_mean() -> None:
    times = arrival_times([RateSegment(3000.0, 10, 10)], GapProcess("poisson"), rng(5))
    counts = np.histogram(times, bins=3000, range=(0, 3000))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, rel=0.1)


def test_a_spike_replaces_the_rate_for_its_time() -> None:
    parts = spiked(RateSegment(60.0, 2, 2), 50, 30.0, 10.0)
    times = arrival_times(parts, CONSTANT, rng())
    assert sum(part.duration_s for part in parts) == pytest.approx(60.0)
    assert ((times > 30) & (times <= 40)).sum() == 500
    assert ((times <= 30).sum(), (times > 40).sum()) == (60, 40)


def test_a_spike_over_the_end_is_cut() -> None:
    parts = spiked(RateSegment(10.0, 1, 3), 9, 8.0, 60.0)
    assert parts == [RateSegment(8.0, 1, 2.6), RateSegment(2.0, 9, 9)]


@given(segments, st.sampled_from(["constant", "poisson", "gamma"]), st.integers(0, 99))
def test_arrivals_are_sorted_and_inside_their_time(
    parts: list[RateSegment], name: str, seed: int
) -> None:
    times = arrival_times(parts, GapProcess(name, 0.5), rng(seed))
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times <= sum(part.duration_s for part in parts) + 1e-6)).all()


@given(segments)
def test_constant_arrivals_are_as_many_as_the_rate_says(parts: list[RateSegment]) -> None:
    expected = sum(part.num_expected for part in parts)
    assert abs(len(arrival_times(parts, CONSTANT, rng())) - expected) <= 1


def test_a_seed_gives_the_same_times_again() -> None:
    parts = [RateSegment(20.0, 1, 30)]
    first, second, other = (
        arrival_times(parts, GapProcess("gamma", 0.3), rng(seed)) for seed in (7, 7, 8)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(0, 9))
def test_spread_arrivals_stay_in_their_tick(ticks: list[int], seed: int) -> None:
    sorted_ticks = np.array(sorted(ticks), dtype=float) * 3
    times = spread_in_ticks(sorted_ticks, rng(seed))
    assert (np.diff(times) >= 0).all()
    assert (times >= sorted_ticks).all()
    distinct = np.unique(sorted_ticks)
    for tick, following in zip(distinct[:-1], distinct[1:], strict=True):
        own = times[sorted_ticks == tick]
        assert (own <= following).all()


def test_a_full_tick_is_spread_evenly() -> None:
    ticks = np.repeat([0.0, 3.0], [4000, 1])
    times = spread_in_ticks(ticks, rng(1))[:4000]
    assert np.histogram(times, bins=3, range=(0, 3))[0] == pytest.approx([1333] * 3, rel=0.1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("1.5", 1.5), ("1h", 3600)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-3s", "3 fortnights", "1e400"])
def test_a_wrong_duration_is_named(text: str) -> None:
    with pytest.raises(LoadtestError, match="not a duration"):
        parse_duration_s(text)


def test_rates_are_read() -> None:
    assert parse_rate("5") == (5.0, 5.0)
    assert parse_rate("2..20") == (2.0, 20.0)


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "nan", "inf", "0..0", "3..-1"])
def test_a_wrong_rate_is_refused(text: str) -> None:
    with pytest.raises(LoadtestError):
        parse_rate(text)


def test_lengths_of_each_form_have_their_mean() -> None:
    assert set(parse_lengths("512").draw(10, rng()).tolist()) == {512}
    uniform = parse_lengths("10-20").draw(5000, rng())
    assert (uniform.min(), uniform.max()) == (10, 20)
    lognormal = parse_lengths("lognormal:400,0.5").draw(50_000, rng())
    assert lognormal.mean() == pytest.approx(400, rel=0.02)
    assert lognormal.std() == pytest.approx(200, rel=0.05)


@pytest.mark.parametrize("text", ["", "0", "20-10", "x", "lognormal:0,1", "lognormal:10,0"])
def test_wrong_lengths_are_refused(text: str) -> None:
    with pytest.raises(LoadtestError):
        parse_lengths(text)
