"""What a worker's host tier holds of a prompt, as policies and predictions count it."""

from dataclasses import replace
from random import Random

import pytest

from router.candidates import Candidate, ClusterView
from router.load import WorkerLoad
from router.outlook import LinkCosts, Outlook, WorkerForecast
from router.placement import Placement, place
from router.policies.host_tier import with_host
from router.policies.named import policy_named
from router.policies.policy import RequestFacts
from router.predictor import StepCosts
from wire.messages import HostLoad, Role, StepTotals, WorkerReport

COSTS = StepCosts(5e-3, 8e-6, 34e-9, 0.0, 25e-6, 6e-10)
OUTLOOK = Outlook(COSTS, 1.0, 0, 0, 0.0, 0.0, LinkCosts(1e-5, 5e-4), 0.0)
WHOLE_S = COSTS.prefill_s(4000)
REST_S = COSTS.prefill_s(800, 3200)  # behind 200 blocks


def worker(name: str, *, block_s: float = 0.0, seqs: int = 0) -> Candidate:
    role = Role.PREFILL if name.startswith("p") else Role.DECODE
    outlook = replace(OUTLOOK, host_block_s=block_s, num_seqs=seqs)
    return Candidate(name, 1, role, 0, seqs, 0, 10_000, 10_000, outlook)


def facts(host: dict[str, int], device: dict[str, int] | None = None) -> RequestFacts:
    held = device or {}
    return RequestFacts(4000, 200, held_blocks=held, confirmed_blocks=held, host_blocks=host)


@pytest.mark.parametrize(
    ("host_blocks", "block_s", "want_s", "num_computed"),
    [
        (200, 1e-4, REST_S + 200e-4, 800),  # 20 ms for what takes 89 ms to compute
        (200, 1.0, WHOLE_S, 4000),  # computing is sooner than 200 s of copies
        (200, 0.0, 0.8 * REST_S + 0.2 * WHOLE_S, 800),  # not measured: by the tier's weight
        (0, 1e-4, WHOLE_S, 4000),
        (250, 1e-4, COSTS.prefill_s(1, 3999) + 3999 / 16 * 1e-4, 1),
    ],
)
def test_a_prompt_takes_what_the_better_of_copying_and_computing_takes(
    host_blocks: int, block_s: float, want_s: float, num_computed: int
) -> None:
    outlook = replace(OUTLOOK, host_block_s=block_s)
    own_s, num_new = with_host(outlook, 4000, 4000, host_blocks, WHOLE_S)
    assert (own_s, num_new) == (pytest.approx(want_s), num_computed)


def placed(asked: RequestFacts, *workers: Candidate, policy: str = "predicted") -> str:
    return decided(asked, *workers, policy=policy).decode


def decided(asked: RequestFacts, *workers: Candidate, policy: str = "predicted") -> Placement:
    """Beside a prefill worker that nobody would wait for."""
    busy = replace(worker("p0"), waiting_tokens=400_000)
    busy = replace(busy, outlook=replace(OUTLOOK, queue_s=10.0, prefill_share=0.9))
    view = ClusterView((busy,), workers)
    placement = place(asked, view, policy_named(policy), Random(0), 4000)
    assert placement is not None
    return placement


@pytest.mark.parametrize("policy", ["predicted", "uncached_tokens", "dynamo"])
def test_the_host_counts_for_more_than_nothing_and_less_than_the_device(policy: str) -> None:
    d0, d1 = worker("d0", block_s=1e-4), worker("d1", block_s=1e-4)
    assert placed(facts({"d0": 240}), d0, d1, policy=policy) == "d0"
    assert placed(facts({"d1": 240}), d0, d1, policy=policy) == "d1"
    assert placed(facts({"d0": 240}, {"d1": 240}), d0, d1, policy=policy) == "d1"


def test_llm_d_s_gate_opens_by_the_weight_of_the_tier() -> None:
    d0, d1 = worker("d0", seqs=3), worker("d1")
    assert placed(facts({}, {"d0": 240}), d0, d1, policy="llm_d") == "d0"
    assert placed(facts({"d0": 240}), d0, d1, policy="llm_d") == "d1"
    assert placed(facts({"d0": 240}), d0, d1, policy="llm_d:match=0.7") == "d0"


def test_slow_host_memory_is_not_worth_a_busier_worker() -> None:
    idle, quick = worker("d0"), worker("d1", block_s=1e-5, seqs=2)
    slow = replace(quick, outlook=replace(OUTLOOK, host_block_s=0.05, num_seqs=2))
    assert placed(facts({"d1": 240}), idle, quick) == "d1"
    assert placed(facts({"d1": 240}), idle, slow) == "d0"


def test_of_many_workers_one_whose_host_holds_the_prompt_is_not_pruned() -> None:
    crowd = [worker(f"d{i}", seqs=i % 2) for i in range(60)]
    crowd[37] = worker("d37", block_s=1e-5, seqs=1)
    assert placed(facts({"d37": 240}), *crowd) == "d37"


def test_the_explanation_s_prefill_has_the_way_back_in_it() -> None:
    placement = decided(facts({"d0": 200}), worker("d0", block_s=1e-4))
    assert (placement.prefill, placement.decode) == (None, "d0")
    prefill_s = placement.ranking[0].forecast.prefill_s
    assert REST_S + 200e-4 < prefill_s < WHOLE_S


def test_efforts_weigh_the_tiers_and_room_does_not() -> None:
    asked = facts({"a": 100, "b": 200}, {"b": 50})
    assert [asked.uncached_tokens(name) for name in "abc"] == [4000, 3200, 4000]
    assert [asked.effort_tokens(name) for name in "abc"] == [4000 - 1280, 3200 - 1920, 4000]
    assert asked.weighed_blocks("b") == 50 + 0.8 * 150
    guessed = replace(asked, held_blocks={"b": 220})
    assert guessed.effort_tokens("b") == 4000 - 220 * 16
    assert guessed.surely_uncached_tokens("b") == 3200 - 1920


def test_what_a_worker_measured_reaches_its_outlook() -> None:
    load, forecast = WorkerLoad(), WorkerForecast(seed=COSTS)
    assert forecast.outlook(load).host_block_s == 0.0
    report = WorkerReport(Role.DECODE, totals=StepTotals(), host=HostLoad(100, 3, 2e-4))
    load.reported(report)
    assert forecast.outlook(load).host_block_s == 2e-4
