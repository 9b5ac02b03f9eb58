"""A prompt's beginning that a peer's cache holds is pulled, by the live router's decision."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cluster import make_profile, make_spec

from loadtest.faults import Fault
from loadtest.plan import Conversation, Segment, Turn, Workload
from runtime.metrics import GATEWAY_METRICS, Metrics
from simulate.batch import Batch, WorkerLimits
from simulate.kv_pool import KvPool
from simulate.leg import Leg
from simulate.run import simulate

LONG = 4096
PROFILE = make_profile(prefill_token_s=1e-3, prefill_batch_tokens=128, kv_tokens=1 << 18)
OWN = 1000
AGAIN_S = 45.2
SPEC = {"policy": "predicted:anywhere=0", "reject_ratio": 99.0, "tpot_slo_ms": 25.0}


def workload(beginnings=(7, 8)):
    """Prompts that warm the predictors, two with long beginnings (one for each prefill worker),
    answers that keep the decode worker busy, a prompt that keeps either prefill worker busy, and
    then both beginnings again, or one of them."""
    warm = [(0.5 * i, (Segment(100 + i, 64 + 16 * (i % 7)),), 20) for i in range(60)]
    first = [(32.0 + i, (Segment(7 + i, LONG), Segment(900 + i, OWN)), 20) for i in range(2)]
    answers = [(40.0 + 0.1 * i, (Segment(800 + i, 64),), 900) for i in range(8)]
    busy = [(45.0, (Segment(9, 6000),), 20)]
    again = [
        (AGAIN_S, (Segment(block, LONG), Segment(910 + block, OWN)), 20) for block in beginnings
    ]
    requests = [*warm, *first, *answers, *busy, *again]
    conversations = tuple(
        Conversation(index, at_s, (Turn(num_output, segments),))
        for index, (at_s, segments, num_output) in enumerate(requests)
    )
    return Workload(conversations, AGAIN_S, "two beginnings")


def run(load, profile=PROFILE, **spec):
    """The two requests that come again, and how many pulls came to which end."""
    metrics = Metrics(GATEWAY_METRICS)
    outcome = simulate(make_spec("2:1", profile=profile, **SPEC, **spec), load, metrics=metrics)
    assert all(record.is_ok for record in outcome.records)
    found = {
        name: metrics.counter("baton_peer_pulls_total", outcome=name)._value.get()
        for name in ("pulled", "failed", "refused", "late")
    }
    again = [record for record in outcome.records if record.intended_s == AGAIN_S]
    return again, {name: count for name, count in found.items() if count}


def test_the_worker_that_is_free_pulls_what_the_busy_one_has():
    again, ends = run(workload())
    assert ends == {"pulled": 1}
    assert max(record.ttft_s for record in again) < 3.0  # both behind each other on one worker
    assert sorted(record.num_cached for record in again) == [0, LONG]


def test_ways_that_nobody_measured_are_not_used(monkeypatch):
    monkeypatch.setattr("simulate.pools._MAX_MEASURED", 2)
    again, ends = run(workload())
    assert ends == {}
    assert max(record.ttft_s for record in again) > 3.0


def the_one_that_pulls(**spec):
    """Of the two beginnings, the one whose holder is busy."""
    runs = [(block, *run(workload((block,)), **spec)) for block in (7, 8)]
    ((block, (record,), _),) = [found for found in runs if found[2]]
    return block, record


def test_a_pull_takes_the_links_time():
    block, fast = the_one_that_pulls()
    slow_link = replace(PROFILE, link_bytes_per_s=4e6)
    (slow,), ends = run(workload((block,)), profile=slow_link)
    assert ends == {"pulled": 1}
    moved_s = LONG * PROFILE.kv_bytes_per_token * (1 / 4e6 - 1 / 1e9)
    assert slow.ttft_s - fast.ttft_s == pytest.approx(moved_s, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "ends"), [("freeze", {"late": 1}), ("cut", {"failed": 1}), ("slow", {"pulled": 1})]
)
def test_a_peer_that_does_not_give_it_makes_the_worker_compute_it(kind, ends):
    block, pulled = the_one_that_pulls()
    peer = ({"prefill-0", "prefill-1"} - {pulled.stages.prefill_worker}).pop()
    fault = Fault(kind, peer, AGAIN_S - 0.1, 2.0)
    (hit,), found = run(workload((block,)), faults=(fault,))
    assert found == ends
    computed_s = PROFILE.chunk_s(0, LONG)
    assert (hit.ttft_s > computed_s) is (kind != "slow")


def test_what_was_evicted_meanwhile_is_refused():
    batch = Batch(WorkerLimits(256, 8, 16), KvPool(64, 1))
    stranger = Leg(1, "r", num_known=40, num_left=4, keys=(5, 6), is_share=True)
    assert not batch.hold(stranger)
    held = Leg(2, "r", num_known=40, num_left=4, keys=(5, 6))
    batch.enqueue(held)
    (chunk,) = batch.plan(0.0)
    batch.computed(chunk)
    assert batch.hold(stranger) and stranger.num_computed == 32
    batch.check_integrity([])
    batch.cancel(stranger)
    batch.cancel(held)
    batch.check_integrity([])


GROUPS = st.lists(
    st.tuples(st.floats(0, 6), st.integers(0, 3), st.integers(1, 300), st.integers(1, 40)),
    min_size=10,
    max_size=60,
)


@settings(max_examples=25)
@given(GROUPS, st.sampled_from([150, 400, 1 << 16]), st.integers(0, 3))
def test_with_pulls_every_request_ends_once_and_every_block_is_returned(drawn, blocks, seed):
    requests = [
        Conversation(i, at_s, (Turn(num_output, (Segment(group, 800), Segment(1000 + i, own))),))
        for i, (at_s, group, own, num_output) in enumerate(sorted(drawn))
    ]
    profile = make_profile(kv_tokens=16 * blocks, prefill_token_s=1e-3)
    spec = make_spec("2:2", profile=profile, policy="predicted", seed=seed, reject_ratio=99)
    load = Workload(tuple(requests), requests[-1].at_s, "groups")
    outcome = simulate(spec, load)  # checks every pool at its end
    assert sorted(record.index for record in outcome.records) == list(range(len(requests)))
    assert {record.error for record in outcome.records} == {""}
    again = simulate(spec, load)
    assert msgspec.json.encode(outcome.records) == msgspec.json.encode(again.records)
