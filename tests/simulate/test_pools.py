"""Pools that change during a simulation."""

from dataclasses import dataclass, field

import pytest
from toy_cluster import make_profile, make_spec, make_workload

from simulate.errors import SimulationError
from simulate.pool_costs import PoolCosts
from simulate.run import simulate
from wire.messages import Role

STEADY = [(0.05 * i, 200, 30) for i in range(400)]


@dataclass
class Script:
    """Changes by time; each is called once with the pools."""

    changes: list
    period_s: float = 0.5
    seen: list = field(default_factory=list)

    def tick(self, now_s, pools):
        while self.changes and self.changes[0][0] <= now_s:
            self.changes.pop(0)[1](pools)
        self.seen.append((now_s, pools.size(Role.PREFILL), pools.size(Role.DECODE)))


def run(split, changes, requests=STEADY, **spec):
    script = Script(changes)
    outcome = simulate(make_spec(split, **spec), make_workload(requests), controllers=[script])
    assert all(record.is_ok for record in outcome.records)
    assert len(outcome.records) == len(requests)
    return outcome, script


def test_a_flipped_worker_serves_the_other_phase_and_keeps_what_it_has():
    outcome, script = run("1:2", [(5.0, lambda pools: pools.flip("decode-1", Role.PREFILL))])
    assert script.seen[-1][1:] == (2, 1)
    late = [r.stages for r in outcome.records if r.intended_s > 6.5]
    assert {stages.prefill_worker for stages in late} == {"prefill-0", "decode-1"}
    assert {stages.decode_worker for stages in late} == {"decode-0"}
    early = [r.stages.decode_worker for r in outcome.records if r.intended_s < 5]
    assert "decode-1" in early


def test_a_flip_takes_its_time_without_new_work():
    costs = PoolCosts(flip_to_prefill_s=4.0)
    flip = (5.0, lambda pools: pools.flip("decode-1", Role.PREFILL))
    outcome, _ = run("1:2", [flip], pool_costs=costs)
    used = [
        r.intended_s
        for r in outcome.records
        if "decode-1" in (r.stages.prefill_worker, r.stages.decode_worker)
    ]
    assert not [at_s for at_s in used if 5.0 <= at_s < 8.9]
    assert [at_s for at_s in used if at_s > 9.0]


def test_an_added_worker_serves_when_its_weights_are_loaded():
    profile = make_profile(load_s=3.0, usd_per_hour=3600.0)
    outcome, _ = run(
        "1:1",
        [(2.0, lambda pools: pools.add(Role.DECODE, 2))],
        profile=profile,
        pool_costs=PoolCosts(start_s=1.0),
    )
    first = min(r.intended_s for r in outcome.records if r.stages.decode_worker == "decode-2")
    assert 6.0 <= first < 7.0
    assert [sample.num_starting for sample in outcome.pools] == [0, 2, 0]
    assert outcome.gpu_s == pytest.approx(2 * 2.0 + 4 * (outcome.end_s - 2.0))
    assert outcome.usd == pytest.approx(outcome.gpu_s)


def test_a_removed_worker_finishes_its_requests_and_is_gone():
    outcome, script = run("1:2", [(5.0, lambda pools: pools.remove("decode-0"))])
    assert script.seen[-1][1:] == (1, 1)
    late = {r.stages.decode_worker for r in outcome.records if r.intended_s > 5.5}
    assert late == {"decode-1"}
    assert outcome.pools[-1].num_gpus == 2


def test_with_one_pool_empty_the_other_serves_both_phases():
    outcome, _ = run("1:1", [(5.0, lambda pools: pools.remove("prefill-0"))])
    assert {r.stages.kind for r in outcome.records if r.intended_s > 5.5} == {"degraded"}


def test_requests_wait_for_a_first_worker():
    def all_change(pools):
        pools.remove("decode-0")
        pools.add(Role.DECODE)

    spec = {"pool_costs": PoolCosts(start_s=3.0)}
    outcome, _ = run("0:1", [(5.0, all_change)], **spec)
    waited = [r.ttft_s for r in outcome.records if 5.5 < r.intended_s < 6.0]
    assert min(waited) > 2.0


def test_a_worker_that_does_not_serve_cannot_be_changed():
    def wrong(pools):
        with pytest.raises(SimulationError, match="decode-7 does not serve"):
            pools.flip("decode-7", Role.PREFILL)
        with pytest.raises(SimulationError, match="decode-7 does not serve"):
            pools.remove("decode-7")

    run("1:1", [(1.0, wrong)], STEADY[:60])
