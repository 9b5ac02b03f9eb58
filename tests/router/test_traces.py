"""What is remembered of ended requests: candidates, predictions, outcomes."""

import pytest
from scripted_cluster import collect, make_request, until

from router.output import RequestTrace
from router.policies.policy import Forecast
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
