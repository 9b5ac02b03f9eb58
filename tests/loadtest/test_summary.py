"""Figures from records, against what can be computed by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.columns import columns_of
from loadtest.errors import LoadtestError
from loadtest.record import RequestRecord, StageTimes
from loadtest.slo import SloSet, parse_slo, parse_slos
from loadtest.summary import (
    Window,
    distribution,
    itl_sample_ms,
    request_columns,
    summarize,
    summarize_stages,
    timeline,
)

NO_SLO = parse_slos([])
TIGHT = parse_slos(["ttft:150 tpot:30"])


def test_errors_and_rejections_are_misses(tools: Any) -> None:
    records = [tools.record(n, n * 1.0) for n in range(6)]
    records += [
        tools.record(6, 6.0, ttft_s=0.2),
        tools.record(7, 7.0, gaps_s=(0.05, 0.05)),
        tools.record(8, 8.0, error="HTTP 429: full", status=429, ttft_s=None, gaps_s=()),
        tools.record(9, 9.0, error="the stream stopped without a finish reason"),
    ]
    group = summarize(columns_of(records, TIGHT), Window(0.0, 10.0))
    assert (group.num_requests, group.num_ok, group.num_good) == (10, 8, 6)
    assert group.attainment == 0.6
    assert group.goodput == 0.6
    assert sum(group.errors.values()) == 2


def test_the_window_cuts_by_intended_time(tools: Any) -> None:
    records = [tools.record(n, n * 1.0, ttft_s=5.0 if n < 3 else 0.1) for n in range(10)]
    group = summarize(columns_of(records, NO_SLO), Window(3.0, 9.0))
    assert group.num_requests == 6
    assert group.ttft.max == pytest.approx(100.0)


def test_latency_counts_from_the_intended_start_and_is_told_from_the_send_too(tools: Any) -> None:
    records = [tools.record(0, 1.0, sent_s=1.04)]
    group = summarize(columns_of(records, NO_SLO), Window(0.0, 2.0))
    assert group.ttft.p50 == pytest.approx(100.0)
    assert group.ttft_from_send.p50 == pytest.approx(60.0)
    assert group.e2el.p50 - group.e2el_from_send.p50 == pytest.approx(40.0)


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 10)), min_size=1, max_size=40),
)
def test_littles_law_holds_for_a_run_with_all_its_requests_inside(
    requests: list[tuple[float, float]],
) -> None:
    """Mean number under way = arrival rate x mean time in the system."""
    stages = StageTimes()
    records = [
        RequestRecord(
            n,
            "",
            n,
            0,
            at,
            at,
            at + length,
            at + length,
            b"",
            1,
            1,
            1,
            1,
            0,
            200,
            "stop",
            "",
            stages,
        )
        for n, (at, length) in enumerate(requests)
    ]
    group = summarize(columns_of(records, NO_SLO), Window(0.0, 100.0))
    rate = len(requests) / 100
    mean_s = float(np.mean([length for _, length in requests]))
    assert group.mean_concurrency == pytest.approx(rate * mean_s)


def test_tokens_count_when_they_come(tools: Any) -> None:
    """Three tokens, at 0.9 s, 1.1 s and 1.3 s: two of them in the window."""
    records = [tools.record(0, 0.0, ttft_s=0.9, gaps_s=(0.2, 0.2))]
    group = summarize(columns_of(records, NO_SLO), Window(1.0, 2.0))
    assert group.output_throughput == pytest.approx(2.0)
    assert group.num_requests == 0
    assert group.request_throughput == 1.0


def test_an_event_with_several_tokens_counts_them_all(tools: Any) -> None:
    records = [tools.record(0, 0.0, gaps_s=(0.1,), num_output=10)]
    group = summarize(columns_of(records, NO_SLO), Window(0.0, 1.0))
    assert group.output_throughput == pytest.approx(10.0)
    assert group.tpot.p50 == pytest.approx(100 / 9, rel=1e-5)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_a_distribution_is_numpys(seconds: list[float]) -> None:
    found = distribution(np.array([*seconds, np.nan]))
    assert found.count == len(seconds)
    for percent in (50, 90, 95, 99):
        expected = np.percentile(np.array(seconds) * 1000, percent)
        assert getattr(found, f"p{percent}") == pytest.approx(expected)
    assert found.min <= found.p50 <= found.p99 <= found.max


def test_nothing_at_all_has_figures_too() -> None:
    everything = columns_of([], NO_SLO)
    group = summarize(everything, Window(0.0, 1.0))
    assert (group.num_requests, group.goodput, group.ttft.count) == (0, 0.0, 0)
    assert timeline(everything, 0.0) == ()
    assert itl_sample_ms(everything) == ()
    assert request_columns(everything).is_ok == []


def test_the_timeline_counts_each_request_once(tools: Any) -> None:
    records = [tools.record(n, n * 0.37, error="" if n % 5 else "no") for n in range(100)]
    buckets = timeline(columns_of(records, TIGHT), 40.0)
    assert sum(bucket.num_requests for bucket in buckets) == 100
    assert sum(bucket.num_failed for bucket in buckets) == 20
    assert sum(bucket.num_good for bucket in buckets) == 80
    tokens = sum(bucket.tokens_per_s for bucket in buckets)
    assert tokens == pytest.approx(300)


def test_a_long_run_has_a_timeline_that_can_be_drawn(tools: Any) -> None:
    records = [tools.record(0, 0.0), tools.record(1, 86_000.0)]
    assert 100 < len(timeline(columns_of(records, NO_SLO), 86_400.0)) <= 240


def test_stages_are_counted_by_pair_and_kind(tools: Any) -> None:
    def stages(**fields: Any) -> Any:
        return type(tools.record().stages)(**fields)

    records = [
        tools.record(0, 0.0, stages=stages(kind="remote", prefill_worker="p", decode_worker="d")),
        tools.record(1, 1.0, stages=stages(kind="local", decode_worker="d", queue_s=0.5)),
        tools.record(2, 2.0, stages=stages(decode_worker="x"), error="lost"),
        tools.record(3, 3.0),
    ]
    found = summarize_stages(columns_of(records, NO_SLO))
    assert found.requests_by_pair == {"p -> d": 1, "d -> d": 1}
    assert found.requests_by_kind == {"local": 1, "remote": 1}
    assert (found.queue.count, found.queue.p50) == (1, 500.0)
    whole = records[0]
    decode_ms = 1e3 * whole.tpot_s * (whole.num_output - 1)
    assert found.decode.count == 2
    assert found.decode.p50 == pytest.approx(decode_ms)


def test_the_columns_for_files_leave_failures_without_latency(tools: Any) -> None:
    records = [tools.record(0, 0.0), tools.record(1, 1.0, error="cut")]
    columns = request_columns(columns_of(records, NO_SLO))
    assert columns.ttft_ms == [100.0, None]
    assert columns.is_ok == [True, False]


def test_the_slo_grammar_is_the_peers() -> None:
    slo = parse_slo("ttft:500 tpot:30")
    assert dict(slo.limits_ms) == {"ttft": 500.0, "tpot": 30.0}
    assert str(parse_slo("e2el:2000,stall:250.5")) == "e2el:2000 stall:250.5"


@pytest.mark.parametrize(
    "text", ["ttft", "ttft:", "ttft:x", "ttft:-1", "ttft:0", "ttft:nan", "abc:5", "ttft:1 ttft:2"]
)
def test_a_wrong_slo_is_refused(text: str) -> None:
    with pytest.raises(LoadtestError):
        parse_slo(text)


def test_a_class_has_its_own_objective(tools: Any) -> None:
    slos = parse_slos(["ttft:50", "batch=e2el:60000"])
    slow = {"ttft_s": 3.0}
    assert not slos.is_met(tools.record(**slow))
    assert slos.is_met(tools.record(class_name="batch", **slow))
    assert str(slos) == "ttft:50, batch=e2el:60000"


@pytest.mark.parametrize(
    ("slo", "changes", "is_met"),
    [
        ("ttft:100.1", {}, True),
        ("ttft:99", {}, False),
        ("tpot:20.1", {}, True),
        ("tpot:19", {}, False),
        ("tpot:1", {"num_output": 1, "gaps_s": ()}, True),
        ("stall:30", {"gaps_s": (0.01, 0.05)}, False),
        ("e2el:1", {"error": "gone"}, False),
        ("", {"error": "gone"}, False),
        ("ttft:1000", {"ttft_s": None, "gaps_s": ()}, False),
    ],
)
def test_objectives_are_met_or_missed(
    tools: Any, slo: str, changes: dict[str, Any], is_met: bool
) -> None:
    assert SloSet(parse_slo(slo), {}).is_met(tools.record(**changes)) is is_met
