"""Intervals that hold what they say, and the search for the largest rate."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.assemble import RunContext, assemble
from loadtest.body import BodyOptions, PromptStyle
from loadtest.compare import bootstrap, caution, compare
from loadtest.errors import LoadtestError
from loadtest.order import Order, plan_workload
from loadtest.result import RunResult
from loadtest.run import Recording, RunSpec
from loadtest.slo import parse_slos
from loadtest.sweep import largest_rate
from loadtest.target import Target


def result_of(tools: Any, seed: int, factor: float = 1.0, errors: int = 0) -> RunResult:
    rng = np.random.default_rng(seed)
    ttfts_s = rng.gamma(4.0, 0.025, 400) * factor
    records = [tools.record(n, n / 10, ttft_s=float(ttft_s)) for n, ttft_s in enumerate(ttfts_s)]
    for n in range(errors):
        records[n * 7] = tools.record(n * 7, n * 0.7, error="HTTP 500: x", ttft_s=None, gaps_s=())
    workload = plan_workload(Order(rate="10", duration="40s", arrivals="constant"))
    body = BodyOptions(model="demo", style=PromptStyle.IDS)
    spec = RunSpec(Target("h", 1), workload, body, parse_slos(["ttft:200"]))
    return assemble(spec, Recording(records=records, stopped_s=41.0), RunContext())


def test_runs_of_the_same_system_show_no_difference(tools: Any) -> None:
    found = compare(result_of(tools, 1), result_of(tools, 2))
    assert all(one.low <= one.ratio <= one.high for one in found)
    verdicts = [one.verdict for one in found]
    assert verdicts.count("no difference shown") >= len(found) - 1


def test_a_run_against_itself_is_equal(tools: Any) -> None:
    result = result_of(tools, 1)
    assert {one.ratio for one in compare(result, result)} == {1.0}


def test_a_slower_system_is_worse_and_a_faster_one_better(tools: Any) -> None:
    a, slow = result_of(tools, 1), result_of(tools, 2, factor=1.6)
    verdicts = {one.name: one.verdict for one in compare(a, slow)}
    assert verdicts["TTFT p50, ms"] == verdicts["TTFT p99, ms"] == "worse"
    assert verdicts["SLO attainment"] == verdicts["goodput, requests/s"] == "worse"
    assert verdicts["TPOT p50, ms"] == "no difference shown"
    verdicts = {one.name: one.verdict for one in compare(slow, a)}
    assert verdicts["TTFT p50, ms"] == verdicts["goodput, requests/s"] == "better"


def test_errors_make_a_run_worse(tools: Any) -> None:
    found = compare(result_of(tools, 1), result_of(tools, 2, errors=50))
    verdicts = {one.name: one.verdict for one in found}
    assert verdicts["SLO attainment"] == "worse"


def test_an_invalid_or_empty_run_is_not_compared(tools: Any) -> None:
    good = result_of(tools, 1)
    bad = msgspec.structs.replace(good, invalid=("p99 lag",))
    with pytest.raises(LoadtestError, match="run B is INVALID: p99 lag"):
        compare(good, bad)
    empty = msgspec.structs.replace(good, requests=type(good.requests)())
    with pytest.raises(LoadtestError, match="run A has no requests"):
        compare(empty, good)


def test_what_is_not_alike_is_said(tools: Any) -> None:
    a = result_of(tools, 1)
    assert caution(a, result_of(tools, 2)) == ""
    other = msgspec.structs.replace(a, facts=msgspec.structs.replace(a.facts, slo="ttft:9"))
    assert "SLOs differ" in caution(a, other)
    window = (a.facts.window_s[0], a.facts.window_s[1] * 2)
    slower = msgspec.structs.replace(a, facts=msgspec.structs.replace(a.facts, window_s=window))
    assert "offered rates differ" in caution(a, slower)


def test_the_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """95 % intervals of the mean of 100 values: between 88 % and 100 % of 200 draws."""
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(200):
        values = rng.exponential(1.0, 100)
        means = bootstrap(values, lambda v: v.mean(axis=1), rng, 300)
        low, high = np.percentile(means, [2.5, 97.5])
        covered += low <= 1.0 <= high
    assert 176 <= covered <= 200


def test_neighbours_that_share_a_queue_widen_the_interval() -> None:
    """Of a strongly correlated series, single requests would claim far too much certainty."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=3000)
    series = np.convolve(noise, np.ones(30) / 30, mode="valid")
    blocks = bootstrap(series, lambda v: v.mean(axis=1), rng).std()
    singles = bootstrap(rng.permutation(series), lambda v: v.mean(axis=1), rng).std()
    assert blocks > 2 * singles


@given(st.floats(0.05, 500), st.floats(0.1, 20))
async def test_the_search_finds_the_largest_rate_that_holds(limit: float, first: float) -> None:
    async def holds(rate: float) -> bool:
        return rate <= limit

    found = await largest_rate(holds, first, 1000.0)
    if found.best_rate == 0:
        assert limit < first / 32
    else:
        assert found.best_rate <= limit <= found.best_rate * 1.1 * (1 + 1e-9)
        assert found.is_bounded
    assert len(found.tried) < 20


async def test_the_search_ends_at_its_bound() -> None:
    async def holds(rate: float) -> bool:
        return True

    found = await largest_rate(holds, 3.0, 40.0)
    assert (found.best_rate, found.is_bounded) == (40.0, False)
