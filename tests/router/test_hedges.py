"""A late first token is asked of other workers too: who wins, what it may cost, what it leaves."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from scripted_cluster import collect, expected, make_request, until

from router.hedges import Hedges
from router.policies.policy import Forecast
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.errors import BatonError, ErrorCode

HEDGED = {
    "policy": "predicted",
    "profile": "llama-3.1-8b@h200",
    "hedge": 1.0,
    "hedge_min_ms": 20.0,
    "hedge_share": 1.0,
    "retry_min_s": 0.001,
}
SLOW = "accepted"
METRICS = Metrics(GATEWAY_METRICS)  # of hedges without a cluster


def busy(cluster):
    """Who was asked, the first one first."""
    asked = [(leg.leg_id, name) for name, w in cluster.workers.items() for leg in w.started]
    return [name for _, name in sorted(asked)]


async def late(cluster, request=None, num_asked=2):
    """A request whose workers are silent: its task, the first one, and the one asked beside it."""
    for worker in cluster.workers.values():
        worker.pause(SLOW)
    task = asyncio.create_task(collect(cluster, request or make_request()))
    await until(lambda: len(busy(cluster)) == num_asked, 30.0)
    asked = busy(cluster)
    return task, {asked[0]}, set(asked[1:])


def resume(cluster, names):
    for name in names:
        cluster[name].resume(SLOW)


async def rest(cluster):
    """Everything that a test has held goes on, and nothing is left."""
    for worker in cluster.workers.values():
        for stage in list(worker._paused):
            worker.resume(stage)
    await cluster.idle()
    assert cluster.router._hedges.num_running == 0


async def test_nothing_runs_twice_unless_it_is_asked_for(start_cluster):
    cluster = await start_cluster(2, 2, **HEDGED | {"hedge": 0.0})
    task, first, _ = await late(cluster, num_asked=1)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), 0.2)
    assert set(busy(cluster)) == first
    resume(cluster, cluster.workers)
    _, last = await task
    assert (last.trace.attempts, last.trace.hedge) == (1, "")
    await cluster.idle()


@pytest.mark.parametrize("logprobs", [None, 2])
async def test_the_second_placement_gives_the_answer_of_a_slow_worker(start_cluster, logprobs):
    cluster = await start_cluster(2, 2, **HEDGED)
    request = make_request()
    request = replace(request, sampling=replace(request.sampling, top_logprobs=logprobs))
    task, first, others = await late(cluster, request)
    assert not first & others
    resume(cluster, set(cluster.workers) - first)
    tokens, last = await task
    assert tokens == expected(request)
    trace = last.trace
    assert (trace.hedge, trace.attempts) == ("won", 2)
    assert {trace.decode_worker, trace.prefill_worker or trace.decode_worker}.isdisjoint(first)
    await until(lambda: all(cluster[name].cancelled for name in first), 30.0)
    assert cluster.metric("baton_hedges_total", outcome="won") == 1
    assert cluster.metric("baton_answers_begun_total") == 1
    assert cluster.metric("baton_answers_total") == 1
    await rest(cluster)


async def test_the_first_placement_goes_on_when_it_speaks_first(start_cluster):
    cluster = await start_cluster(2, 2, **HEDGED)
    task, first, others = await late(cluster)
    resume(cluster, set(cluster.workers) - others)
    tokens, last = await task
    assert tokens == expected(make_request())
    assert last.trace.hedge == "lost"
    assert last.trace.decode_worker not in others
    await until(lambda: all(cluster[name].cancelled for name in others), 30.0)
    await rest(cluster)


async def test_a_worker_that_dies_while_another_was_asked_is_no_retry(start_cluster):
    cluster = await start_cluster(2, 2, **HEDGED)
    task, first, _ = await late(cluster)
    for name in first:
        await cluster[name].kill()
    resume(cluster, set(cluster.workers) - first)
    tokens, last = await task
    assert tokens == expected(make_request())
    assert (last.trace.hedge, last.trace.attempts) == ("won", 2)
    assert cluster.metric("baton_retries_total", reason="worker_lost") == 0


async def test_when_both_fail_a_third_placement_gives_the_answer(start_cluster):
    cluster = await start_cluster(3, 3, **HEDGED)
    task, first, others = await late(cluster)
    for name in first | others:
        cluster[name].failures[SLOW] = ErrorCode.INTERNAL
    resume(cluster, cluster.workers)
    tokens, last = await task
    assert tokens == expected(make_request())
    assert last.trace.hedge == "failed"
    assert last.trace.attempts == 3
    assert cluster.metric("baton_hedges_total", outcome="failed") == 1
    await cluster.idle()


async def test_what_would_fail_anywhere_ends_both(start_cluster):
    cluster = await start_cluster(2, 2, **HEDGED)
    task, first, others = await late(cluster)
    for name in others:
        cluster[name].failures[SLOW] = ErrorCode.INVALID_REQUEST
    resume(cluster, set(cluster.workers) - first)
    with pytest.raises(BatonError) as caught:
        await task
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    await rest(cluster)


async def test_both_late_means_that_the_client_waits_for_the_first_of_them(start_cluster):
    cluster = await start_cluster(2, 2, **HEDGED)
    task, first, others = await late(cluster)
    await asyncio.wait([task], timeout=0.2)
    assert not task.done()
    assert set(busy(cluster)) == first | others, "nobody is asked a third time"
    resume(cluster, cluster.workers)
    assert (await task)[0] == expected(make_request())
    await cluster.idle()


async def test_a_client_that_leaves_during_a_hedge_ends_all_legs(start_cluster):
    cluster = await start_cluster(2, 2, **HEDGED)
    task, first, others = await late(cluster)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert cluster.metric("baton_hedges_total", outcome="cancelled") == 1
    await until(lambda: all(cluster[name].cancelled for name in first | others), 30.0)
    await rest(cluster)
    trace = cluster.router.trace(make_request().request_id)
    assert (trace.outcome, trace.hedge) == ("cancelled", "cancelled")


async def test_beyond_its_budget_a_late_request_waits_for_its_own_worker(start_cluster):
    cluster = await start_cluster(3, 3, **HEDGED | {"hedge_share": 0.0})
    task, first, others = await late(cluster)
    second = asyncio.create_task(collect(cluster, make_request(start=500)))
    await until(lambda: cluster.metric("baton_hedges_refused_total", reason="budget") > 0, 30.0)
    resume(cluster, cluster.workers)
    assert (await task)[0] == expected(make_request())
    tokens, last = await second
    assert (tokens, last.trace.hedge) == (expected(make_request(start=500)), "")
    await cluster.idle()


async def test_without_other_workers_nobody_is_asked_twice(start_cluster):
    cluster = await start_cluster(1, 1, **HEDGED | {"hedge_share": 0.0})
    hedges = cluster.router._hedges
    hedges._saved = 0.0  # nobody is asked before the other worker drains
    task, first, _ = await late(cluster, num_asked=1)
    other = next(name for name in cluster.workers if name not in first)
    cluster[other].draining = True
    await until(lambda: cluster.states()[other] == "draining", 30.0)
    hedges._saved = 1.0
    await until(lambda: cluster.metric("baton_hedges_refused_total", reason="no_worker") > 0, 30.0)
    resume(cluster, cluster.workers)
    assert (await task)[1].trace.attempts == 1
    await cluster.idle()


def hedges(level=0.0, num_under_way=100, share=0.05, factor=1.0):
    return Hedges(factor, 0.1, share, lambda: num_under_way, lambda: level, METRICS)


def test_nobody_is_asked_twice_above_80_percent_saturation():
    assert hedges(0.8).begin()
    assert not hedges(0.81).begin()


def test_a_token_is_late_from_the_p95_of_what_forecasts_were_off_and_never_below_the_floor():
    many = hedges(factor=2.0)
    for number in range(100):
        many.first_came(Forecast(ttft_s=0.1), 0.1 + 0.002 * number)
    assert many.placed(Forecast(ttft_s=1.0)) == pytest.approx(2 * 2.9)
    assert many.placed(Forecast(ttft_s=0.001)) == 0.1


@pytest.mark.parametrize(("factor", "share"), [(-1.0, 0.05), (1.0, -0.1), (1.0, 1.1)])
def test_a_budget_that_is_none_is_refused(factor, share):
    with pytest.raises(ValueError, match="hedge"):
        hedges(factor=factor, share=share)


class HedgesMachine(RuleBasedStateMachine):
    """Never more at a time, and never more in all, than the share allows."""

    def __init__(self):
        super().__init__()
        self.under_way, self.level, self.share = 1, 0.0, 0.1
        self.placed = self.begun = self.running = 0
        self.hedges = Hedges(
            1.0, 0.1, self.share, lambda: self.under_way, lambda: self.level, METRICS
        )

    @rule(num=st.integers(1, 30))
    def requests_come(self, num):
        self.placed += num
        for _ in range(num):
            self.hedges.placed(Forecast(ttft_s=0.1))

    @rule(num=st.integers(1, 200), level=st.floats(0, 1.2))
    def load_changes(self, num, level):
        self.under_way, self.level = num, level

    @rule(has_worker=st.booleans())
    def one_is_late(self, has_worker):
        if not self.hedges.begin():
            return
        assert self.level <= 0.8
        assert self.running + 1 <= max(1, self.share * self.under_way + 1)
        if has_worker:
            self.begun, self.running = self.begun + 1, self.running + 1
        else:
            self.hedges.end("no_worker")

    @rule(outcome=st.sampled_from(["won", "lost", "failed", "cancelled"]))
    def one_ends(self, outcome):
        if self.running:
            self.running -= 1
            self.hedges.end(outcome)

    @invariant()
    def the_budget_holds(self):
        self.hedges.check_integrity()
        assert self.hedges.num_running == self.running
        assert self.begun <= 1 + self.share * self.placed + 1e-9


TestHedges = HedgesMachine.TestCase
