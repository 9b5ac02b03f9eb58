"""What a pool has shown to carry: learned slowly, given back where requests miss."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_cases import seen, traffic

from control_plane.planner.config import PlannerConfig
from control_plane.planner.headroom import Headroom, Kept, kept
from control_plane.planner.learned import Learned, LearnedPool
from control_plane.planner.planner import Planner
from control_plane.planner.types import Observation, PoolFigures
from wire.cluster import Mode
from wire.messages import Role

AIM = 0.97
WELL, BADLY = Kept(100, 0), Kept(100, 20)


def ticks(headroom: Headroom, begin_s: float, seconds: float, pressure: float, late: Kept) -> float:
    """Every 5 s; gives when the last one was."""
    at_s = begin_s
    while at_s < begin_s + seconds:
        at_s += 5
        headroom.learn(at_s, pressure, late, AIM)
    return at_s


def test_a_load_that_was_carried_may_be_exceeded_a_little() -> None:
    headroom = Headroom()
    ticks(headroom, 0, 300, 1.1, WELL)
    assert headroom.allowed == pytest.approx(1.08 * 1.1)


def test_a_surge_is_learned_a_step_a_minute() -> None:
    headroom = Headroom()
    at_s = ticks(headroom, 0, 55, 1.5, WELL)
    assert headroom.allowed == 1.0
    at_s = ticks(headroom, at_s, 55, 1.5, WELL)
    assert headroom.allowed == pytest.approx(1.08)
    ticks(headroom, at_s, 600, 1.5, WELL)
    assert headroom.allowed == 1.6


def test_steady_load_teaches_less_than_what_removes_a_worker() -> None:
    headroom = Headroom()
    ticks(headroom, 0, 36_000, 1.0, WELL)
    assert headroom.allowed <= 1.1, "the dead band"


def test_an_idle_pool_teaches_nothing() -> None:
    headroom = Headroom()
    ticks(headroom, 0, 3600, 0.4, WELL)
    ticks(headroom, 4000, 300, 2.0, Kept(10, 0))
    assert headroom.allowed == 1.0


def test_misses_take_it_back_step_by_step_and_are_remembered_for_ten_minutes() -> None:
    headroom = Headroom()
    at_s = ticks(headroom, 0, 600, 1.3, WELL)
    before = headroom.allowed
    at_s = ticks(headroom, at_s, 300, 1.3, BADLY)
    lower = headroom.allowed
    assert 1.0 <= lower < before / 1.08
    at_s = ticks(headroom, at_s, 500, 1.3, WELL)
    assert headroom.allowed == lower
    ticks(headroom, at_s, 3600, 1.3, WELL)
    assert headroom.allowed > lower


def test_one_bad_minute_within_the_long_runs_budget_takes_nothing_back() -> None:
    headroom = Headroom()
    at_s = ticks(headroom, 0, 600, 1.2, WELL)
    before = headroom.allowed
    ticks(headroom, at_s, 30, 1.2, BADLY)
    assert headroom.allowed == before


def allowed_after(planner: Planner) -> set[float]:
    """Of both pools, at the first observation."""
    decision = planner.on_tick(seen(5.0, 4, 4, traffic(1, 1000, 100)))
    return {decision.input("allowed_prefill"), decision.input("allowed_decode")}


def test_another_planner_goes_on_from_what_was_learned_in_the_same_mode_alone() -> None:
    config = PlannerConfig()
    learned = (LearnedPool(1.25), LearnedPool(1.5, 1.5, 0.02, 900))
    known = Learned(Mode.HYBRID, config.objectives, *learned)
    planner = Planner(config)
    planner.go_on_from(known)
    assert allowed_after(planner) == {1.25, 1.5}
    assert planner.learned == known
    other = Planner(replace(config, mode="aggregated"))
    other.go_on_from(known)
    assert allowed_after(other) == {1.0}
    assert other.learned == known, "for when the mode comes back"


@given(st.floats(0, 1e6), st.floats(0, 1e5), st.lists(st.sampled_from([WELL, BADLY]), max_size=60))
def test_what_is_told_is_what_is_gone_on_from(at_s: float, gap_s: float, kinds: list[Kept]) -> None:
    wall_s, one = 1.7e9, Headroom()
    for kind in kinds:
        at_s += 20
        one.learn(at_s, 1.4, kind, AIM)
    told = one.learned(at_s, wall_s)
    again = Headroom.going_on(60.0, told, gap_s, wall_s + gap_s)
    after = again.learned(gap_s, wall_s + gap_s)
    assert after.missed_at_s == pytest.approx(told.missed_at_s, abs=1e-3)
    assert replace(after, missed_at_s=told.missed_at_s) == told
    again.learn(gap_s + 5, 1.6, WELL, AIM)
    assert again.allowed == one.allowed, "the first step comes a step later"


def test_a_miss_is_remembered_by_the_next_planner() -> None:
    headroom = Headroom.going_on(60.0, LearnedPool(1.1, 1.1, 0.01, 1000.0), 50.0, 1100.0)
    at_s = ticks(headroom, 50.0, 480, 1.3, WELL)
    assert headroom.allowed == 1.1
    ticks(headroom, at_s, 300, 1.3, WELL)
    assert headroom.allowed > 1.1


@given(
    st.lists(
        st.tuples(st.floats(0.1, 60), st.floats(0, 10), st.integers(0, 500), st.floats(0, 1)),
        max_size=60,
    )
)
def test_it_stays_between_the_model_and_its_limit(
    spans: list[tuple[float, float, int, float]],
) -> None:
    headroom, at_s = Headroom(), 0.0
    for seconds, pressure, count, share in spans:
        at_s += seconds
        headroom.learn(at_s, pressure, Kept(count, share * count), AIM)
        assert 1.0 <= headroom.allowed <= 1.6


def test_a_refusal_counts_for_both_pools_and_a_late_answer_for_its_own() -> None:
    observed = Observation(
        0.0,
        0.0,
        (),
        None,
        prefill=PoolFigures(attainment=0.9, num_answers=100),
        decode=PoolFigures(attainment=1.0, num_answers=100),
        num_refused=7,
    )
    late = {role: kept(observed, role) for role in Role}
    assert late[Role.PREFILL].num_late == pytest.approx(17)
    assert late[Role.DECODE] == Kept(107, 7)
    assert kept(Observation(0.0, 0.0, (), None, num_refused=3), Role.DECODE) == Kept(3, 3)
