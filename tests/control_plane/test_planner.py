"""The planner's decisions, one situation after the other."""

from dataclasses import replace
from itertools import pairwise

import pytest
from planner_cases import COSTS, PROFILE, ObedientCluster, seen, traffic, workers

from control_plane.planner.config import Hardware, PlannerConfig, Schedule
from control_plane.planner.demand import WorkerModel
from control_plane.planner.patience import CoolDowns
from control_plane.planner.planner import Planner
from control_plane.planner.types import (
    Add,
    Flip,
    Hold,
    Objectives,
    Observation,
    PoolFigures,
    PoolSizes,
    Remove,
    Traffic,
)
from wire.cluster import Mode
from wire.messages import Role

LONG_PROMPTS = traffic(24, 6000, 100)
LONG_ANSWERS = traffic(50, 300, 1200)
FIXED = PlannerConfig(can_scale=False)


def test_the_pool_that_is_pressed_gets_workers_of_the_other_by_flips() -> None:
    cluster = ObedientCluster(4, 4)
    cluster.run(Planner(FIXED), LONG_PROMPTS, 24)
    assert cluster.sizes.prefill > 4
    assert cluster.history[-1].input("pressure_prefill") <= 1.05 or cluster.sizes.decode == 1


def test_a_shift_of_phase_turns_the_pools_round_and_back() -> None:
    cluster, planner = ObedientCluster(4, 4), Planner(FIXED)
    cluster.run(planner, LONG_PROMPTS, 24)
    before = cluster.sizes
    cluster.run(planner, LONG_ANSWERS, 24)
    assert cluster.sizes.decode > before.decode


def test_steady_load_moves_nothing_in_an_hour() -> None:
    for load in (LONG_PROMPTS, LONG_ANSWERS, traffic(20, 1500, 300)):
        cluster, planner = ObedientCluster(4, 4), Planner(PlannerConfig(max_gpus=16))
        cluster.run(planner, load, 200)
        settled = cluster.sizes
        cluster.run(planner, load, 720)
        assert cluster.sizes == settled
        assert all(decision.holds for decision in cluster.history[-720:])


def test_more_load_than_flips_can_carry_adds_workers_within_the_budget() -> None:
    cluster = ObedientCluster(1, 1)
    cluster.run(Planner(PlannerConfig(max_gpus=6)), traffic(40, 6000, 200), 200)
    assert cluster.sizes.total == 6
    assert any("the budget allows 6" in alarm for alarm in cluster.history[-1].alarms)


def test_a_cluster_that_is_too_large_shrinks_one_cool_down_after_the_other() -> None:
    config = PlannerConfig(remove_cooldown_s=60)
    cluster = ObedientCluster(4, 4)
    cluster.run(Planner(config), traffic(2, 500, 100), 200)
    assert cluster.sizes == PoolSizes(1, 1)
    removed = [d.at_s for d in cluster.history if isinstance(d.actions[0], Remove)]
    assert min(b - a for a, b in zip(removed, removed[1:], strict=False)) >= 60


def test_whoever_removed_too_early_waits_longer_with_the_next_removal() -> None:
    cooldowns = CoolDowns(15.0, 30.0, 120.0)
    cooldowns.removed(0.0)
    assert cooldowns.until_remove_s(0.0) == 120
    cooldowns.added(200.0)
    assert cooldowns.until_remove_s(200.0) == 240
    cooldowns.removed(1000.0)
    cooldowns.added(1000.0 + 61 * 120)
    assert cooldowns.until_remove_s(1000.0 + 61 * 120) == 120


def test_the_second_moment_of_the_prompts_asks_for_more() -> None:
    even = Planner(FIXED).what_if(seen(0, 4, 4, None), traffic(20, 4000, 100, cv2=0.0))
    uneven = Planner(FIXED).what_if(seen(0, 4, 4, None), traffic(20, 4000, 100, cv2=6.0))
    assert uneven.desired.prefill > even.desired.prefill


def test_prompts_that_decode_workers_compute_are_work_of_the_decode_pool() -> None:
    apart = traffic(20, 6000, 100)
    local = replace(apart, local_share=0.5)
    planner = Planner(PlannerConfig())
    decisions = [planner.what_if(seen(0.0, 4, 4, load), load) for load in (apart, local)]
    prefill = [decision.input("needed_prefill") for decision in decisions]
    decode = [decision.input("needed_decode") for decision in decisions]
    assert prefill[1] < prefill[0] and decode[1] > decode[0]
    assert abs(sum(d.desired.total for d in decisions[:1]) - decisions[1].desired.total) <= 1
    assert decisions[1].input("local_share") == 0.5


def test_cached_tokens_ask_for_less() -> None:
    full = traffic(30, 6000, 100)
    hit = replace(full, uncached_tokens=1000, uncached_squares=2e6, uncached_pairs=12e6)
    planner = Planner(FIXED)
    assert (
        planner.what_if(seen(0, 4, 4, None), hit).desired.prefill
        < planner.what_if(seen(0, 4, 4, None), full).desired.prefill
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"traffic": None}, "no gateway's figures"),
        ({"traffic": replace(LONG_PROMPTS, age_s=60.0)}, "60 s old"),
        ({"traffic": replace(LONG_PROMPTS, age_s=float("nan"))}, "old"),
        (
            {"workers": tuple(replace(worker, age_s=99.0) for worker in workers(4, 4))},
            "8 of 8 workers' figures are stale",
        ),
    ],
)
def test_missing_or_stale_data_holds_the_last_decision_and_alarms(
    change: dict[str, object], reason: str
) -> None:
    cluster, planner = ObedientCluster(4, 4), Planner(FIXED)
    cluster.run(planner, LONG_PROMPTS, 2)
    wanted = cluster.history[-1].desired
    observation = Observation(15.0, 15.0, tuple(cluster.workers), LONG_PROMPTS)
    decision = planner.on_tick(replace(observation, **change))  # type: ignore[arg-type]
    assert decision.holds and decision.desired == wanted
    assert reason in decision.alarms[0]


@pytest.mark.parametrize(
    ("at_s", "wall_s", "reason"),
    [(5.0, 12.0, "went back"), (900.0, 900.0, "no tick for"), (15.0, 9000.0, "jumped by 8985 s")],
)
def test_a_clock_that_jumps_holds_for_one_tick(at_s: float, wall_s: float, reason: str) -> None:
    planner = Planner(FIXED)
    planner.on_tick(seen(10.0, 4, 4, LONG_PROMPTS))
    jumped = replace(seen(at_s, 4, 4, LONG_PROMPTS), wall_s=wall_s)
    decision = planner.on_tick(jumped)
    assert decision.holds and reason in decision.alarms[0]
    after = replace(jumped, at_s=at_s + 5, wall_s=wall_s + 5)
    assert not planner.on_tick(after).alarms or "jump" not in planner.on_tick(after).alarms[0]


def test_late_first_tokens_press_prefill_alone_and_late_tokens_decode_alone() -> None:
    load = traffic(5, 500, 50)
    base = seen(5.0, 4, 4, load)
    late_first = replace(base, prefill=PoolFigures(ratio_p90=1.8))
    late_token = replace(base, decode=PoolFigures(ratio_p90=1.8))
    first, token = Planner(FIXED).on_tick(late_first), Planner(FIXED).on_tick(late_token)
    assert first.input("pressure_prefill") == pytest.approx(1.8)
    assert token.input("pressure_decode") == pytest.approx(1.8)
    assert first.input("pressure_decode") < 1 and token.input("pressure_prefill") < 1


def test_what_a_lone_request_takes_of_its_objective_presses_no_pool() -> None:
    load = traffic(5, 500, 50)
    alone = COSTS.itl_s(1, load.context_tokens) / PlannerConfig().objectives.tpot_s
    few = replace(seen(5.0, 4, 4, load), decode=PoolFigures(ratio_p90=1.05 * alone))
    many = replace(few, decode=PoolFigures(ratio_p90=(1 + alone) / 2))
    pressures = [Planner(FIXED).on_tick(now).input("observed_decode") for now in (few, many)]
    assert pressures[0] < 0.1 and pressures[1] == pytest.approx(0.5)


def test_a_flip_that_is_in_flight_is_not_ordered_twice() -> None:
    planner, observation = Planner(FIXED), seen(0.0, 4, 4, LONG_PROMPTS)
    flips = []
    for tick in range(8):
        decision = planner.on_tick(replace(observation, at_s=5.0 * tick, wall_s=5.0 * tick))
        flips += [action for action in decision.actions if isinstance(action, Flip)]
    assert len(flips) == 1


def test_a_flip_that_does_not_come_is_reported() -> None:
    planner, observation = Planner(FIXED), seen(0.0, 4, 4, LONG_PROMPTS)
    alarms = []
    for tick in range(20):
        decision = planner.on_tick(replace(observation, at_s=5.0 * tick, wall_s=5.0 * tick))
        alarms += decision.alarms
    assert any("flip to prefill was not done in 60 s" in alarm for alarm in alarms)


def test_large_clusters_flip_one_in_eight_at_a_time() -> None:
    planner = Planner(FIXED)
    observation = seen(0.0, 16, 16, traffic(100, 6000, 100))
    for tick in range(3):
        decision = planner.on_tick(replace(observation, at_s=5.0 * tick, wall_s=5.0 * tick))
        if not decision.holds:
            break
    assert 1 < len(decision.actions) <= 4


def test_a_worker_that_lies_is_named_and_teaches_nothing() -> None:
    observation = seen(0.0, 2, 2, traffic(5, 500, 50))
    liar = replace(
        observation.workers[0], complaint="it reports tokens that nobody sent", waiting_tokens=10**9
    )
    decision = Planner(FIXED).on_tick(
        replace(observation, workers=(liar, *observation.workers[1:]))
    )
    assert decision.holds
    assert "worker-0: it reports tokens that nobody sent" in decision.alarms
    assert decision.input("pressure_prefill") < 1


def test_workers_that_tell_less_than_they_do_shrink_no_pool() -> None:
    load = traffic(60, 4000, 400)
    observation = seen(0.0, 4, 4, load)
    silent = tuple(
        replace(w, num_running=0, num_waiting=0, waiting_tokens=0, context_tokens=0, kv_use=0.0)
        for w in observation.workers
    )
    decision = Planner(PlannerConfig()).on_tick(replace(observation, workers=silent))
    honest = Planner(PlannerConfig()).what_if(observation, load)
    for name in ("needed_prefill", "needed_decode"):
        assert decision.input(name) == honest.input(name) >= 1
    assert decision.desired.prefill >= honest.desired.prefill
    assert decision.desired.decode >= honest.desired.decode


def test_an_objective_that_no_size_meets_is_said_and_moves_nothing() -> None:
    config = PlannerConfig(objectives=Objectives(tpot_s=0.001), can_scale=False)
    planner = Planner(config)
    decision = planner.on_tick(seen(0.0, 4, 4, traffic(5, 500, 50)))
    assert any("TPOT objective is 1 ms" in alarm for alarm in decision.alarms)


def test_after_long_idleness_both_pools_go_to_zero_and_the_first_request_brings_them_back() -> None:
    config = PlannerConfig(
        min_prefill=0, min_decode=0, idle_to_zero_s=300, remove_cooldown_s=30, add_cooldown_s=0
    )
    cluster, planner = ObedientCluster(1, 1, start_s=10.0), Planner(config)
    cluster.run(planner, Traffic(), 100)
    assert cluster.sizes == PoolSizes(0, 0)
    cluster.run(planner, replace(Traffic(), num_waiting=1), 1)
    assert isinstance(cluster.history[-1].actions[0], Add)
    cluster.run(planner, replace(Traffic(), num_waiting=1), 3)
    assert cluster.sizes.decode == 1


def test_a_schedule_raises_the_floor_within_its_hours() -> None:
    morning = Schedule("morning", 8, 10, min_prefill=3, min_decode=3)
    planner = Planner(PlannerConfig(schedules=(morning,)))
    quiet = traffic(0.1, 100, 10)
    night = planner.on_tick(replace(seen(0.0, 2, 2, quiet), wall_s=7 * 3600.0))
    assert night.holds
    decision = Planner(planner.config).on_tick(replace(seen(0.0, 2, 2, quiet), wall_s=9 * 3600.0))
    assert {(a.role, a.count) for a in decision.actions if isinstance(a, Add)} == {
        (Role.PREFILL, 1),
        (Role.DECODE, 1),
    }


def test_the_cheapest_kind_for_the_work_is_added() -> None:
    slow = WorkerModel(
        replace(COSTS, prefill_token_s=10 * COSTS.prefill_token_s), PROFILE.kv_tokens, 256
    )
    fast = WorkerModel(COSTS, PROFILE.kv_tokens, 256)
    kinds = (Hardware("slow", 1.0), Hardware("fast", 3.0))
    planner = Planner(PlannerConfig(hardware=kinds), {"slow": slow, "fast": fast})
    cluster = ObedientCluster(1, 4)
    cluster.run(planner, traffic(30, 6000, 50), 12)
    added = [a for d in cluster.history for a in d.actions if isinstance(a, Add)]
    assert added and {action.hardware for action in added} == {"fast"}


def test_workers_that_nobody_knows_yet_are_left_alone() -> None:
    blank = tuple(replace(worker, costs=None) for worker in workers(2, 2))
    decision = Planner(PlannerConfig()).on_tick(Observation(0, 0, blank, LONG_PROMPTS))
    assert decision.holds and isinstance(decision.actions[0], Hold)
    assert "learned from its first steps" in decision.actions[0].reason


def test_the_better_mode_is_taken_and_one_pool_needs_no_prefill_workers() -> None:
    planner = Planner(PlannerConfig(mode="auto", min_prefill=0, can_scale=False))
    base = seen(0.0, 4, 4, traffic(5, 500, 50))
    scores = ((Mode.AGGREGATED, 0.99), (Mode.HYBRID, 0.9))
    cluster = base
    for tick in range(16):
        decision = planner.on_tick(
            replace(cluster, at_s=5.0 * tick, wall_s=5.0 * tick, mode_scores=scores)
        )
        roles = {a.worker_id: a.to_role for a in decision.actions if isinstance(a, Flip)}
        cluster = replace(
            cluster,
            workers=tuple(
                replace(worker, role=roles.get(worker.worker_id, worker.role))
                for worker in cluster.workers
            ),
        )
    assert planner.mode is Mode.AGGREGATED
    assert not cluster.of(Role.PREFILL)


def test_of_modes_that_attain_the_same_the_one_that_needs_fewer_workers_is_taken() -> None:
    few, many = traffic(1, 500, 50), traffic(5, 40_000, 50)
    scores = ((Mode.HYBRID, 1.0), (Mode.AGGREGATED, 0.99))
    for min_prefill, load, best in (
        (0, few, Mode.AGGREGATED),  # one worker does both
        (1, few, Mode.HYBRID),  # an idle one would have to stay
        (0, many, Mode.HYBRID),
    ):
        planner = Planner(PlannerConfig(mode="auto", min_prefill=min_prefill))
        planner.on_tick(replace(seen(0.0, 1, 1, load), mode_scores=scores))
        assert planner.mode is best


@pytest.mark.parametrize("rate", [14.0, 20.0, 35.0, 50.0])
def test_neither_chance_nor_a_busy_moment_changes_the_mode_to_and_fro(rate: float) -> None:
    planner = Planner(PlannerConfig(mode="auto", min_prefill=0))
    scores = ((Mode.HYBRID, 1.0), (Mode.AGGREGATED, 1.0))
    modes = []
    for tick in range(24):
        load = traffic(rate * (1 + (-1) ** tick * 0.03), 2000, 300)
        now = replace(seen(5.0 * tick, 2, 4, load), mode_scores=scores)
        busy = PoolFigures(ratio_p90=1.5 if tick % 3 else 0.5)
        planner.on_tick(replace(now, prefill=busy, decode=busy), acts=False)
        modes.append(planner.mode)
    assert sum(before is not after for before, after in pairwise(modes)) <= 1


def test_in_one_pool_late_first_tokens_press_it() -> None:
    planner = Planner(PlannerConfig(mode="aggregated", min_prefill=0))
    late = replace(seen(0.0, 0, 4, traffic(1, 500, 50)), prefill=PoolFigures(ratio_p90=1.8))
    assert planner.on_tick(late).input("pressure_decode") == pytest.approx(1.8)


def test_the_gateways_objectives_come_before_the_configured_ones() -> None:
    load = traffic(60, 1000, 400)
    loose, strict = (
        Planner(FIXED).on_tick(seen(0.0, 4, 4, replace(load, ttft_slo_s=2.0, tpot_slo_s=tpot_s)))
        for tpot_s in (0.05, 0.008)
    )
    assert strict.input("pressure_decode") > loose.input("pressure_decode")


def test_what_if_changes_nothing() -> None:
    planner = Planner(FIXED)
    before = planner.on_tick(seen(0.0, 4, 4, traffic(5, 500, 50)))
    supposed = planner.what_if(seen(1.0, 4, 4, None), traffic(400, 6000, 500))
    assert supposed.holds and supposed.desired.total > 8
    assert planner.on_tick(seen(2.0, 4, 4, None)).desired == before.desired  # held
    assert planner.on_tick(seen(5.0, 4, 4, traffic(5, 500, 50))).desired == before.desired


def test_what_if_names_the_limit_that_holds_it_and_the_sizes_without_it() -> None:
    load, now = traffic(400, 6000, 500), seen(0.0, 1, 4, None)
    free = Planner(FIXED).what_if(now, load)
    enough = free.desired
    assert not any("held at" in alarm for alarm in free.alarms)
    limited = replace(FIXED, max_prefill=1)
    answer = Planner(limited).what_if(now, load)
    assert answer.alarms[-1] == (
        f"held at {answer.desired} by the maximum of 1 prefill workers; without that: {enough}"
    )
    poor = Planner(replace(FIXED, max_gpus=5)).what_if(now, load)
    assert poor.desired.total == 5
    assert f"by the budget (max_gpus = 5); without that: {enough}" in poor.alarms[-1]
    pinned = replace(FIXED, min_prefill=1, max_prefill=1, min_decode=4, max_decode=4)
    held = Planner(pinned).what_if(now, load, pinned_by="ada")
    assert held.alarms[-1] == f"held at 1P4D by a pin by ada; without that: {enough}"


def test_what_if_without_step_times_says_that_it_answers_with_the_workers_of_now() -> None:
    unknown = replace(seen(0.0, 1, 4, None), workers=())
    answer = Planner(FIXED).what_if(unknown, traffic(400, 6000, 500))
    assert any("step times" in alarm for alarm in answer.alarms)
