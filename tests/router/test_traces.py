"""What is remembered of ended requests: candidates, predictions, outcomes."""

import json
from dataclasses import replace

import pytest
from scripted_cluster import collect, make_request, until

from router.output import RequestTrace
from router.policies.policy import Forecast
from router.trace_log import TraceLog, TraceLogError
from router.traces import Traces
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.errors import BatonError

FORECAST = Forecast(ttft_s=0.5, tpot_s=0.01, queue_s=0.1, prefill_s=0.4, exposed_s=0.02)
TRACE = RequestTrace(
    "remote", "p0", "d0", 1, placed_s=0.1, queue_s=0.15, prefill_s=0.3, transfer_s=0.2,
    exposed_s=0.02, ttft_s=0.7, predicted=FORECAST,
)  # fmt: skip


def metrics():
    return Metrics(GATEWAY_METRICS)


def test_only_the_latest_requests_are_remembered():
    traces = Traces(3, metrics())
    for number in range(5):
        traces.put(f"r{number}", TRACE)
    assert len(traces) == 3
    assert traces.get("r1") is None
    assert traces.get("r4") is TRACE


def test_prediction_errors_go_to_the_metrics_by_stage():
    registry = metrics()
    Traces(3, registry).put("r", TRACE)
    errors = TRACE.prediction_errors_s()
    assert errors == pytest.approx({"ttft": 0.1, "queue": 0.05, "prefill": -0.1, "exposed": 0.0})
    text = registry.exposition().decode()
    assert 'baton_prediction_error_seconds_count{stage="exposed"} 1.0' in text


def test_a_request_that_was_placed_twice_says_nothing_of_the_prediction():
    trace = RequestTrace("remote", "p0", "d0", 2, ttft_s=1.0, predicted=FORECAST)
    assert trace.prediction_errors_s() == {}


def test_the_slowest_and_the_latest_can_be_listed():
    traces = Traces(10, metrics())
    for number, ttft_s in enumerate([0.3, 0.9, 0.0, 0.5]):
        traces.put(f"r{number}", replace(TRACE, ttft_s=ttft_s, total_s=0.6))
    assert [name for name, _ in traces.latest(2)] == ["r3", "r2"]
    assert [name for name, _ in traces.slowest(3)] == ["r1", "r2", "r3"]


def test_the_trace_log_has_every_request_and_two_files_bound_it(tmp_path):
    path = tmp_path / "traces.jsonl"
    log = TraceLog(path, 4096, lambda: 12.5)
    traces = Traces(2, metrics(), log.put)
    for number in range(40):
        traces.put(f"r{number}", TRACE)
    log.close()
    older = (tmp_path / "traces.jsonl.1").read_bytes()
    lines = [json.loads(line) for line in (older + path.read_bytes()).splitlines()]
    assert path.stat().st_size <= 4096 and len(older) <= 4096
    assert lines[-1]["id"] == "r39" and lines[-1]["ended_at_s"] == 12.5
    assert lines[-1]["predicted"]["ttft_s"] == 0.5
    assert {file.name for file in tmp_path.iterdir()} == {"traces.jsonl", "traces.jsonl.1"}


def test_a_trace_log_that_cannot_be_written_is_said_at_once(tmp_path):
    with pytest.raises(TraceLogError, match="no_such_folder"):
        TraceLog(tmp_path / "no_such_folder" / "t.jsonl", 4096, lambda: 0.0)


async def test_an_ended_request_can_be_looked_up(start_cluster):
    cluster = await start_cluster()
    request = make_request()
    assert cluster.router.trace(request.request_id) is None
    _, last = await collect(cluster, request)
    trace = cluster.router.trace(request.request_id)
    assert trace.outcome == "length"
    assert (trace.prefill_worker, trace.decode_worker) == ("p0", "d0")
    assert 0 < trace.placed_s <= trace.ttft_s
    assert trace.explanation == last.trace.explanation
    assert (trace.num_prompt_tokens, trace.num_output_tokens) == (200, 8)
    assert 0 <= trace.admitted_s <= trace.placed_s and trace.total_s >= trace.ttft_s
    assert cluster.router.recent_traces(5) == [(request.request_id, trace)]
    await cluster.idle()


async def test_a_cancelled_request_and_one_that_failed_are_remembered_as_such(start_cluster):
    cluster = await start_cluster(0, 0, worker_wait_s=0.01)
    with pytest.raises(BatonError):
        await collect(cluster, make_request())
    assert cluster.router.trace("r1").outcome == "unavailable"
    cluster = await start_cluster()
    deltas = cluster.router.generate(make_request(max_tokens=100))
    await anext(deltas)
    await deltas.aclose()
    assert cluster.router.trace("r1").outcome == "cancelled"
    await until(lambda: cluster.router._admission.num_under_way == 0)
    await cluster.idle()
