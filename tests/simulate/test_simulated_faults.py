"""Workers that fail in a simulation: the live relay resumes, with the tokens that were sent."""

import msgspec
import numpy as np
import pytest
from toy_cluster import make_profile, make_spec, make_workload

from loadtest.faults import Fault
from loadtest.slo import parse_slos
from simulate.fault_rates import RandomFaults
from simulate.links import LinkClass
from simulate.pool_costs import PoolCosts
from simulate.report import result_of
from simulate.run import simulate

STEADY = [(0.05 * i, 200, 60) for i in range(300)]
QUICK = PoolCosts(start_s=2.0)


def run(split, faults, requests=STEADY, **spec):
    spec = make_spec(split, faults=tuple(faults), pool_costs=QUICK, **spec)
    workload = make_workload(requests)
    return spec, workload, simulate(spec, workload)


def test_a_killed_decode_workers_streams_go_on_elsewhere_without_a_lost_token():
    _, _, outcome = run("1:2", [Fault("kill", "decode-0", 5.0)])
    assert all(record.is_ok and record.num_output == 60 for record in outcome.records)
    hit = [r for r in outcome.records if r.longest_stall_s > 0.06 and r.intended_s < 5 < r.end_s]
    assert hit, "streams that were under way stalled while they moved"
    for record in hit:
        assert record.stages.decode_worker == "decode-1"
        assert len(record.gaps_s) == 59
    assert max(record.longest_stall_s for record in hit) < 1.0


def test_only_what_was_not_sent_is_made_again():
    """One stream of 200 tokens, its worker killed half-way: the rest is as long as before."""
    spec = make_spec("0:2", faults=(Fault("kill", "any", 1.5),), pool_costs=QUICK)
    (record,) = simulate(spec, make_workload([(0.0, 200, 200)])).records
    assert record.num_output == 200
    stalls = np.flatnonzero(record.gaps_s > 0.05)
    assert len(stalls) <= 1
    alone = simulate(make_spec("0:2"), make_workload([(0.0, 200, 200)])).records[0]
    assert record.e2e_s - alone.e2e_s < 0.3  # the retry's pause, and 200 + n tokens of prefill


def test_a_killed_prefill_worker_is_replaced_and_nobody_fails():
    _, _, outcome = run("2:1", [Fault("kill", "prefill-0", 5.0)])
    assert all(record.is_ok for record in outcome.records)
    (fault,) = outcome.faults
    assert fault.victim == "prefill-0"
    assert fault.back_s == pytest.approx(2.0, abs=0.5)
    late = [r.stages.prefill_worker for r in outcome.records if r.intended_s > 8.0]
    assert set(late) == {"prefill-0", "prefill-1"}


def test_a_hung_worker_is_found_out_and_left():
    light = [(0.2 * i, 200, 60) for i in range(90)]
    _, _, outcome = run("1:2", [Fault("freeze", "decode-1", 5.0, 8.0)], light)
    assert all(record.is_ok and record.num_output == 60 for record in outcome.records)
    stalls = [r.longest_stall_s for r in outcome.records]
    assert 2.0 < max(stalls) < 4.0  # no frame for 2.5 s, then another worker


def test_a_freeze_too_short_to_notice_only_delays():
    _, _, outcome = run("1:2", [Fault("freeze", "decode-1", 5.0, 1.0)])
    assert 0.9 < max(record.longest_stall_s for record in outcome.records) < 1.3
    used = [r.stages.decode_worker for r in outcome.records if r.intended_s < 5 < r.end_s]
    assert "decode-1" in used


def test_a_cut_link_makes_decode_workers_compute_the_prompt():
    _, _, outcome = run("1:1", [Fault("cut", "decode-0", 5.0, 3.0)], STEADY[:200])
    assert all(record.is_ok for record in outcome.records)
    late = [r for r in outcome.records if 5.0 < r.intended_s < 7.5]
    assert any(record.longest_stall_s > 3.5 for record in late)  # the silence of 4 s


def test_a_slow_link_exposes_its_transfers():
    slow = [Fault("slow", "decode-0", 5.0)]
    profile = make_profile(link_bytes_per_s=2e8)
    _, _, outcome = run("1:1", slow, [(0.4 * i, 1000, 8) for i in range(30)], profile=profile)
    exposed = {r.intended_s > 5: r.stages.exposed_s for r in outcome.records}
    assert exposed[True] > 5 * exposed[False]


def test_zones_decide_how_fast_kv_travels():
    requests = [(0.4 * i, 1000, 8) for i in range(10)]
    fast = simulate(make_spec("1:1"), make_workload(requests))
    links = (LinkClass(("", ""), 1e7, 0.01),)
    slow = simulate(make_spec("1:1", links=links), make_workload(requests))
    pairs = zip(fast.records, slow.records, strict=True)
    assert all(b.stages.exposed_s > 5 * a.stages.exposed_s for a, b in pairs)


def test_all_workers_lost_is_503_after_a_while():
    requests = [(0.5 * i, 200, 10) for i in range(60)]
    spec = make_spec("0:1", faults=(Fault("kill", "any", 4.0),), pool_costs=PoolCosts(start_s=60))
    outcome = simulate(spec, make_workload(requests))
    assert {record.status for record in outcome.records if record.intended_s > 5} == {503}
    assert all(record.is_ok for record in outcome.records if record.end_s < 4)


def test_random_faults_are_drawn_from_the_seed_and_reported():
    rates = RandomFaults(kills_per_worker_hour=60.0)
    results = []
    for seed in (1, 1, 2):
        spec = make_spec("2:2", random_faults=rates, seed=seed, pool_costs=QUICK)
        workload = make_workload(STEADY)
        outcome = simulate(spec, workload)
        assert all(record.is_ok for record in outcome.records)
        result = result_of(spec, workload, outcome, parse_slos(["ttft:300 tpot:30"]))
        results.append(msgspec.json.encode(result.faults))
    assert results[0] == results[1] != results[2]


def test_more_requests_than_may_wait_are_refused_as_they_are_live():
    requests = [(0.001 * i, 500, 50) for i in range(120)]
    spec = make_spec("1:1", max_under_way=20, max_queued=30)
    outcome = simulate(spec, make_workload(requests))
    statuses = [record.status for record in outcome.records]
    assert statuses.count(429) >= 60
    assert statuses.count(200) + statuses.count(429) == 120


def test_a_hung_prefill_workers_prompts_are_asked_of_another_one():
    """A freeze of 2 s, which no watchdog finds."""
    spec = {"policy": "predicted:anywhere=0", "reject_ratio": 0.0}
    fault = Fault("freeze", "prefill-0", 5.0, 2.0)
    requests = [(0.2 * i, 500, 5) for i in range(40)]
    _, _, waiting = run("2:1", [fault], requests, **spec)
    _, _, hedged = run("2:1", [fault], requests, hedge=1.0, **spec)
    assert all(record.is_ok and record.num_output == 5 for record in hedged.records)
    slowest = [max(r.ttft_s for r in outcome.records) for outcome in (waiting, hedged)]
    assert slowest[1] < slowest[0]
