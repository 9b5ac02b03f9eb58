"""Shadow policies: counted beside the live one, which they do not change."""

import time
from dataclasses import replace
from random import Random
from statistics import median

import pytest
from scripted_cluster import collect, expected, make_request, until

from router.candidates import Candidate, ClusterView
from router.outlook import LinkCosts, Outlook
from router.placement import place
from router.policies.named import policy_named
from router.policies.policy import RequestFacts
from router.predictor import StepCosts
from router.shadow import Shadows
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.messages import Role

COSTS = StepCosts(5e-3, 8e-6, 34e-9, 0.0, 25e-6, 6e-10)


def worker(name, role, queue_s=0.0, num_seqs=0):
    outlook = Outlook(COSTS, 1.0, num_seqs, 0, queue_s, 0.0, LinkCosts(1e-6, 5e-4), 0.0, 5e-3)
    waiting = round(queue_s / COSTS.prefill_token_s)
    return Candidate(name, 1, role, 0, num_seqs, waiting, 9999, 9999, outlook)


VIEW = ClusterView(
    (worker("p0", Role.PREFILL, 1.0), worker("p1", Role.PREFILL)),
    (worker("d0", Role.DECODE), worker("d1", Role.DECODE, num_seqs=3)),
)
FACTS = RequestFacts(3000, 50, ordinal=0)


def shadows(*names, share=1.0):
    metrics = Metrics(GATEWAY_METRICS)
    return Shadows(names, share, 16, Random(0), metrics), metrics


def value(metrics, name, **labels):
    return metrics._registry.get_sample_value(name, labels) or 0.0


def test_a_disagreement_is_counted_with_what_it_would_have_changed():
    live = place(FACTS, VIEW, policy_named("uncached_tokens"), Random(0), 16)
    assert (live.prefill, live.decode) == ("p1", "d0")
    judge, metrics = shadows("round_robin")
    judge.ask("round_robin", live, FACTS, VIEW)  # the first in turn: p0, which has a queue
    name = "baton_shadow_disagreements_total"
    assert value(metrics, "baton_shadow_placements_total", policy="round_robin") == 1
    assert value(metrics, name, policy="round_robin", part="prefill") == 1
    assert value(metrics, name, policy="round_robin", part="decode") == 0
    later = value(
        metrics,
        "baton_shadow_difference_seconds_total",
        policy="round_robin",
        stage="ttft",
        direction="later",
    )
    assert later == pytest.approx(1.0, rel=0.01)


def test_agreement_and_cold_predictors_make_no_difference():
    live = place(FACTS, VIEW, policy_named("uncached_tokens"), Random(0), 16)
    judge, metrics = shadows("uncached_tokens", "round_robin")
    judge.ask("uncached_tokens", live, FACTS, VIEW)
    cold = ClusterView(
        tuple(replace(found, outlook=None) for found in VIEW.prefill),
        tuple(replace(found, outlook=None) for found in VIEW.decode),
    )
    judge.ask("round_robin", live, FACTS, cold)
    assert b"baton_shadow_difference_seconds_total{" not in metrics.exposition()


async def test_a_share_of_the_requests_is_asked_about_after_the_answer_to_the_live_one(
    start_cluster,
):
    cluster = await start_cluster(2, 2, shadow_policies="round_robin; least_load", shadow_share=0.5)
    for number in range(8):
        request = make_request(start=1 + 300 * number)
        tokens, _ = await collect(cluster, request)
        assert tokens == expected(request)
    for name in ("round_robin", "least_load"):
        await until(
            lambda name=name: cluster.metric("baton_shadow_placements_total", policy=name) == 4
        )
    await cluster.idle()


async def test_a_shadow_changes_no_live_decision(start_cluster):
    kinds = []
    for policies in ("", "random; round_robin"):
        cluster = await start_cluster(
            2, 3, shadow_policies=policies, shadow_share=1.0, policy="random"
        )
        chosen = []
        for number in range(12):
            _, last = await collect(cluster, make_request(start=1 + 300 * number))
            chosen.append((last.trace.prefill_worker, last.trace.decode_worker))
        kinds.append(chosen)
    assert kinds[0] == kinds[1]


async def test_the_live_path_pays_microseconds_for_a_shadow():
    judge, _ = shadows("predicted", share=0.1)
    live = place(FACTS, VIEW, policy_named("uncached_tokens"), Random(0), 16)
    taken_s = []
    for _ in range(20):  # of which some also pay for what earlier tests left to collect
        started_s = time.process_time()
        for _ in range(100):
            judge.placed(live, FACTS, VIEW)
        taken_s.append(time.process_time() - started_s)
    assert median(taken_s) / 100 < 50e-6


def test_bad_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="no policy 'clever'"):
        shadows("clever")
    with pytest.raises(ValueError, match="0 .. 1"):
        shadows("random", share=1.5)
