"""What holds for every input of the planner."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import ObedientCluster, seen, traffic

from control_plane.planner.config import PlannerConfig
from control_plane.planner.planner import Planner
from control_plane.planner.types import Flip, Observation, PoolFigures, Remove
from wire.messages import Role

loads = st.builds(
    traffic,
    st.floats(0, 200),
    st.floats(1, 30_000),
    st.floats(1, 4000),
    st.floats(0, 8),
)
ratios = st.none() | st.floats(0, 10)


@st.composite
def configs(draw: st.DrawFn) -> PlannerConfig:
    low_prefill, low_decode = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    budget = draw(st.integers(max(1, low_prefill + low_decode), 20))
    return PlannerConfig(
        min_prefill=low_prefill,
        max_prefill=low_prefill + draw(st.integers(0, 12)),
        min_decode=low_decode,
        max_decode=low_decode + draw(st.integers(0, 12)),
        max_gpus=budget,
        confirm_ticks=draw(st.integers(1, 4)),
        add_cooldown_s=draw(st.floats(0, 60)),
        remove_cooldown_s=draw(st.floats(0, 60)),
        can_flip=draw(st.booleans()),
    )


@settings(max_examples=25)
@given(configs(), st.lists(st.tuples(loads, st.integers(1, 8)), min_size=1, max_size=5))
def test_never_below_minimum_and_never_over_budget(
    config: PlannerConfig, phases: list[tuple[object, int]]
) -> None:
    cluster = ObedientCluster(config.min_prefill, config.min_decode, start_s=10.0)
    planner = Planner(config)
    for load, num_ticks in phases:
        for _ in range(num_ticks):
            cluster.run(planner, load, 1)  # type: ignore[arg-type]
            sizes, desired = cluster.sizes, cluster.history[-1].desired
            assert sizes.prefill >= config.min_prefill and sizes.decode >= config.min_decode
            assert sizes.prefill <= config.max_prefill and sizes.decode <= config.max_decode
            assert sizes.total + len(cluster.coming) <= config.max_gpus
            assert desired.total <= config.max_gpus
            assert desired.prefill >= config.min_prefill and desired.decode >= config.min_decode


@settings(max_examples=60)
@given(st.integers(0, 6), st.integers(0, 6), ratios, st.booleans())
def test_no_action_without_data(
    num_prefill: int, num_decode: int, ratio: float | None, is_stale: bool
) -> None:
    planner = Planner(PlannerConfig())
    load = replace(traffic(50, 4000, 400), age_s=1e3) if is_stale else None
    for tick in range(6):
        observation = replace(
            seen(5.0 * tick, num_prefill, num_decode, load),
            prefill=PoolFigures(ratio),
            decode=PoolFigures(ratio),
        )
        assert planner.on_tick(observation).holds


@settings(max_examples=80)
@given(loads, st.floats(1, 5), st.integers(1, 12), st.integers(1, 12))
def test_more_of_the_same_load_never_asks_for_less(
    load: object, factor: float, num_prefill: int, num_decode: int
) -> None:
    first = replace(load)  # type: ignore[type-var]
    more = replace(first, requests_per_s=first.requests_per_s * factor)  # type: ignore[attr-defined]
    observation = seen(0.0, num_prefill, num_decode, None)
    less_decision = Planner(PlannerConfig()).what_if(observation, first)  # type: ignore[arg-type]
    more_decision = Planner(PlannerConfig()).what_if(observation, more)
    assert more_decision.desired.prefill >= less_decision.desired.prefill
    assert more_decision.desired.decode >= less_decision.desired.decode


@settings(max_examples=60)
@given(loads, st.integers(1, 24), st.integers(1, 24))
def test_flips_in_flight_stay_within_one_in_eight(
    load: object, num_prefill: int, num_decode: int
) -> None:
    planner = Planner(PlannerConfig())
    observation = seen(0.0, num_prefill, num_decode, load)  # type: ignore[arg-type]
    flips = 0
    for tick in range(6):
        decision = planner.on_tick(replace(observation, at_s=5.0 * tick, wall_s=5.0 * tick))
        flips += sum(isinstance(action, Flip) for action in decision.actions)
        assert flips <= max(1, (num_prefill + num_decode) // 8)


@settings(max_examples=40)
@given(loads, st.integers(1, 8), st.integers(1, 8))
def test_a_decision_names_only_workers_that_are_there(
    load: object, num_prefill: int, num_decode: int
) -> None:
    planner = Planner(PlannerConfig(remove_cooldown_s=5.0))
    for tick in range(5):
        observation: Observation = seen(5.0 * tick, num_prefill, num_decode, load)  # type: ignore[arg-type]
        here = {worker.worker_id: worker.role for worker in observation.workers}
        for action in planner.on_tick(observation).actions:
            if isinstance(action, Flip):
                assert here[action.worker_id] is not action.to_role
            if isinstance(action, Remove):
                assert action.worker_id in here
            assert action.reason


def test_every_role_has_its_own_figures() -> None:
    observation = replace(seen(0.0, 1, 1, None), prefill=PoolFigures(2.0))
    assert observation.figures(Role.PREFILL).ratio_p90 == pytest.approx(2.0)
    assert observation.figures(Role.DECODE).ratio_p90 is None
