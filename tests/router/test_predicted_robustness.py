"""The policy `predicted` with wrong predictions and with a stale index."""

from dataclasses import replace
from random import Random

import pytest

from loadtest.order import Order, plan_workload
from loadtest.slo import parse_slos
from profiles.catalog import load_profile
from router.outlook import WorkerForecast
from simulate.process import SimulatedProcess
from simulate.run import simulate
from simulate.spec import ClusterSpec

SLOS = parse_slos(("ttft:4000 tpot:12",))
ORDER = Order(
    rate="5", requests=400, arrivals="gamma", burstiness=0.5, input_tokens="lognormal:8000,1.2",
    output_tokens="lognormal:300,1.0", prefix_tokens=512, turns=2, think="3",
)  # fmt: skip


def spec(split=(4, 4), policy="predicted", **values):
    profile = load_profile("llama-3.1-8b@h200")
    values = {"unit_tokens": 512, "tpot_slo_ms": 12.0} | values
    return ClusterSpec(*split, profile, profile, policy=policy, **values)


def num_met(order=ORDER, seeds=(1, 2), **values):
    records = [
        record
        for seed in seeds
        for record in simulate(spec(**values), plan_workload(replace(order, seed=seed))).records
    ]
    return sum(SLOS.is_met(record) for record in records)


@pytest.mark.slow
def test_predictions_that_are_wrong_by_a_third_cost_a_twentieth_of_the_goodput(monkeypatch):
    exact, rng, outlook = num_met(), Random(7), WorkerForecast.outlook

    def noisy(forecast, load):
        found = outlook(forecast, load)
        if found is None:
            return None
        costs, link = found.costs, found.link
        factors = [rng.uniform(0.7, 1.3) for _ in range(3)]
        wrong = replace(
            costs,
            step_s=costs.step_s * factors[0],
            context_token_s=costs.context_token_s * factors[0],
            prefill_token_s=costs.prefill_token_s * factors[1],
            prefill_pair_s=costs.prefill_pair_s * factors[1],
        )
        link = replace(link, token_s=link.token_s * factors[2])
        return replace(found, costs=wrong, link=link, queue_s=found.queue_s * factors[1])

    monkeypatch.setattr(WorkerForecast, "outlook", noisy)
    assert num_met() >= 0.95 * exact


@pytest.mark.slow
def test_an_index_that_is_two_seconds_old_costs_a_twentieth_of_the_goodput(monkeypatch):
    exact, changed = num_met(), SimulatedProcess.blocks_changed

    def late(process, event):
        process._loop.after(2.0, changed, process, event)

    monkeypatch.setattr(SimulatedProcess, "blocks_changed", late)
    assert num_met() >= 0.95 * exact


def outcome(rate, **values):
    """Share of the accepted that meet both objectives, and requests a second that do."""
    order = replace(ORDER, rate=f"{rate}", requests=round(60 * rate), seed=3)
    records = simulate(spec(ttft_slo_ms=4000.0, **values), plan_workload(order)).records
    num_ok, met = sum(record.is_ok for record in records), sum(map(SLOS.is_met, records))
    return met / num_ok, met / max(record.sent_s for record in records)


@pytest.mark.slow
def test_an_overload_is_refused_and_those_accepted_are_served_as_promised():
    _, useful = outcome(10.7)
    share, more = outcome(16)
    assert share >= 0.95
    assert more >= 0.95 * useful
    assert outcome(16, reject_ratio=0.0)[0] < share
