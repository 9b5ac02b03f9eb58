"""The loop around the planner: what it orders, what it leaves, what it tells."""

import asyncio
from dataclasses import replace

import pytest
from planner_cases import seen, traffic

from control_plane.actuators.actuator import ActuatorRefused, PoolStatus
from control_plane.autopilot import Autopilot, AutopilotParts, supposed_traffic
from control_plane.config import ControlConfig
from control_plane.lessons import Lessons
from control_plane.overrides import Overrides, Pin
from control_plane.planner.config import PlannerConfig
from control_plane.planner.learned import Learned, LearnedPool
from control_plane.planner.planner import Planner
from control_plane.planner.types import (
    Add,
    Flip,
    Objectives,
    Observation,
    PoolFigures,
    PoolSizes,
    Traffic,
)
from control_plane.planner_settings import read_planner_config, seed_models
from control_plane.planning import Stance, SupposedLoad
from runtime.clock import VirtualClock
from runtime.metrics import CONTROL_METRICS, Metrics
from runtime.settings import SettingsError
from wire.cluster import ControlOrder, Mode, OrderKind
from wire.errors import BatonError, ErrorCode
from wire.messages import Role

LONG_PROMPTS = traffic(24, 6000, 100)


class ScriptedActuator:
    """Records what it is asked; refuses when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.refusal = ""

    async def add(self, role: Role, count: int, hardware: str) -> None:
        if self.refusal:
            raise ActuatorRefused(self.refusal)
        self.calls.append(("add", role, count, hardware))

    async def remove(self, worker_id: str) -> None:
        self.calls.append(("remove", worker_id))

    async def recommend(self, prefill: int, decode: int) -> None:
        self.calls.append(("recommend", prefill, decode))

    async def status(self) -> tuple[PoolStatus, ...]:
        return ()

    async def close(self) -> None:
        pass


class Cockpit:
    """An autopilot over observations that the test sets."""

    def __init__(self, config: PlannerConfig, acts: bool = True) -> None:
        self.clock = VirtualClock()
        self.actuator = ScriptedActuator()
        self.orders: list[tuple[str, ControlOrder]] = []
        self.order_error: BatonError | None = None
        self.overrides, self.lessons = Overrides(), Lessons()
        self.metrics = Metrics(CONTROL_METRICS)
        self.leads = True
        self.now: Observation = seen(0.0, 4, 4, LONG_PROMPTS)
        self.mode_scores: tuple[tuple[Mode, float], ...] = ()
        self.modes: object = None
        self.planner = Planner(config)
        self.autopilot = self.build(acts)

    def build(self, acts: bool, modes: object = None) -> Autopilot:
        parts = AutopilotParts(
            observer=self,  # type: ignore[arg-type]
            actuator=self.actuator,
            order=self.order,
            overrides=self.overrides,
            clock=self.clock,
            wall_s=self.clock.now,
            metrics=self.metrics,
            may_act=lambda: self.leads,
            modes=modes,  # type: ignore[arg-type]
            lessons=self.lessons,
        )
        return Autopilot(self.planner, parts, acts)

    async def observe(self) -> Observation:
        at_s = self.clock.now()
        return replace(self.now, at_s=at_s, wall_s=at_s, mode_scores=self.mode_scores)

    async def order(self, worker_id: str, order: ControlOrder) -> None:
        if self.order_error is not None:
            raise self.order_error
        self.orders.append((worker_id, order))

    async def ticks(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(5.0)
            await self.autopilot.tick()


FIXED = PlannerConfig(can_scale=False)


async def test_a_tick_goes_on_from_what_another_process_learned_and_leaves_what_it_learns() -> None:
    cockpit = Cockpit(FIXED)
    learned = Learned(Mode.HYBRID, FIXED.objectives, LearnedPool(1.25))
    cockpit.lessons.held = learned
    await cockpit.ticks(1)
    assert cockpit.autopilot.decisions()[-1].decision.input("allowed_prefill") == 1.25
    assert cockpit.lessons.held == learned
    late = PoolFigures(ratio_p90=2.0, attainment=0.5, num_answers=200)
    cockpit.now = replace(cockpit.now, prefill=late)
    await cockpit.ticks(20)
    left = cockpit.lessons.held.prefill
    assert left.allowed < 1.25 and left.missed_at_s > 0, "it missed, and that is told"


async def test_a_flip_goes_to_the_worker_as_an_order_and_its_outcome_is_kept() -> None:
    cockpit = Cockpit(FIXED)
    await cockpit.ticks(3)
    ((worker_id, order),) = cockpit.orders
    assert order == ControlOrder(OrderKind.FLIP, Role.PREFILL)
    done = [d for d in cockpit.autopilot.decisions() if "done" in d.outcomes]
    assert len(done) == 1 and done[0].decision.actions[0] == Flip(
        worker_id, Role.PREFILL, done[0].decision.actions[0].reason
    )
    assert b'baton_control_decisions_total{action="flip"} 1.0' in cockpit.metrics.exposition()


@pytest.mark.parametrize("why", ["advise", "paused", "follower"])
async def test_nothing_is_done_by_an_autopilot_that_may_not_act(why: str) -> None:
    cockpit = Cockpit(FIXED, acts=why != "advise")
    if why == "paused":
        cockpit.overrides.pause("an operator")
    cockpit.leads = why != "follower"
    await cockpit.ticks(12)
    assert not cockpit.orders
    assert any(isinstance(d.decision.actions[0], Flip) for d in cockpit.autopilot.decisions())
    assert not any(
        "was not done" in a for d in cockpit.autopilot.decisions() for a in d.decision.alarms
    )
    assert cockpit.autopilot.stance() is (Stance.ADVISE if why == "advise" else Stance.ACT)


async def test_what_should_be_is_told_to_the_platform_and_exported() -> None:
    cockpit = Cockpit(PlannerConfig(), acts=False)
    await cockpit.ticks(3)
    desired = cockpit.autopilot.decisions()[-1].decision.desired
    assert ("recommend", desired.prefill, desired.decode) in cockpit.actuator.calls
    shown = f'baton_control_desired_workers{{role="prefill"}} {float(desired.prefill)}'
    assert shown.encode() in cockpit.metrics.exposition()


async def test_a_refusal_is_kept_counted_and_does_not_end_the_loop() -> None:
    cockpit = Cockpit(PlannerConfig(can_flip=False))
    cockpit.actuator.refusal = "the quota allows 8 workers"
    await cockpit.ticks(4)
    refused = [d for d in cockpit.autopilot.decisions() if d.outcomes and d.outcomes[0]]
    assert isinstance(refused[0].decision.actions[0], Add)
    assert refused[0].outcomes == ("refused: the quota allows 8 workers",)
    assert b'baton_control_failed_actions_total{action="add"}' in cockpit.metrics.exposition()


async def test_a_flip_that_could_not_be_ordered_may_be_wished_again() -> None:
    cockpit = Cockpit(FIXED)
    cockpit.order_error = BatonError(ErrorCode.UNAVAILABLE, "the worker left")
    await cockpit.ticks(3)
    cockpit.order_error = None
    await cockpit.ticks(4)
    assert len(cockpit.orders) == 1


async def test_a_pin_is_both_pools_limits_until_it_runs_out() -> None:
    cockpit = Cockpit(PlannerConfig(can_scale=False))
    cockpit.now = seen(0.0, 4, 4, traffic(1, 100, 10))
    cockpit.overrides.set_pin(Pin(PoolSizes(6, 2), "an operator", 0.0, until_s=40.0))
    await cockpit.ticks(2)
    assert cockpit.autopilot.decisions()[-1].decision.desired == PoolSizes(6, 2)
    assert {order.role for _, order in cockpit.orders} == {Role.PREFILL}
    await cockpit.ticks(8)
    assert cockpit.planner.config == cockpit.autopilot.config()


async def test_a_new_configuration_counts_from_the_next_tick() -> None:
    cockpit = Cockpit(FIXED)
    cockpit.autopilot.configure(replace(FIXED, can_flip=False))
    await cockpit.ticks(10)
    assert not cockpit.orders


async def test_what_if_answers_from_the_live_workers() -> None:
    cockpit = Cockpit(FIXED)
    with pytest.raises(BatonError, match="nothing was observed yet"):
        cockpit.autopilot.what_if(SupposedLoad(1, 1, 1))
    await cockpit.ticks(1)
    small = cockpit.autopilot.what_if(SupposedLoad(5, 1000, 100)).desired
    large = cockpit.autopilot.what_if(SupposedLoad(100, 8000, 500)).desired
    tight = cockpit.autopilot.what_if(SupposedLoad(100, 8000, 500, tpot_slo_s=0.01)).desired
    assert large.total > small.total and tight.decode > large.decode


def test_a_supposed_load_spreads_like_the_live_one() -> None:
    live: Traffic = traffic(5, 1000, 10, cv2=4.0)
    supposed = supposed_traffic(SupposedLoad(1, 2000, 10, cached_share=0.5), live)
    assert supposed.uncached_tokens == 1000 and supposed.cached_tokens == 1000
    assert supposed.uncached_squares == pytest.approx(5e6)
    assert supposed.uncached_pairs == pytest.approx(2e6 + 5e6)


class ScriptedModes:
    async def scores(
        self, history: tuple[Observation, ...], objectives: Objectives
    ) -> tuple[tuple[Mode, float], ...]:
        assert history
        return ((Mode.AGGREGATED, 0.99), (Mode.HYBRID, 0.5))


async def test_the_modes_are_simulated_beside_the_loop() -> None:
    cockpit = Cockpit(PlannerConfig(mode="auto", can_scale=False))
    cockpit.autopilot = cockpit.build(acts=False, modes=ScriptedModes())
    await cockpit.ticks(1)
    await asyncio.sleep(0)
    await cockpit.ticks(2)
    assert cockpit.mode_scores and cockpit.planner.mode is Mode.AGGREGATED


# --- settings ------------------------------------------------------------------------------------


def test_the_planner_file_is_read_with_its_kinds_and_schedules(tmp_path: object) -> None:
    path = f"{tmp_path}/planner.toml"
    with open(path, "w") as file:
        file.write(
            "[planner]\nmax_gpus = 16\nobjectives = {ttft_s = 1.0}\n"
            'hardware = [{name = "h200", profile = "llama-3.1-8b@h200", usd_per_hour = 3.8}]\n'
            'schedules = [{name = "day", from_hour = 8, to_hour = 18, min_decode = 2}]\n'
        )
    config = read_planner_config(ControlConfig(plan="act", planner_file=path))
    assert config.max_gpus == 16 and config.objectives.ttft_s == 1.0
    assert config.schedules[0].min_decode == 2
    assert seed_models(config)["h200"].kv_tokens > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[planner]\nmax_gpus = 1\n", "max_gpus: 1 is less than the 2 of the minimums"),
        ("[planner]\nmax_gpu = 1\n", "unknown planner settings: max_gpu"),
        ("[planner]\nmin_decode = 'x'\n", "min_decode"),
        ("not toml", "cannot read the planner file"),
    ],
)
def test_a_planner_file_that_cannot_be_used_is_refused(
    tmp_path: object, text: str, message: str
) -> None:
    path = f"{tmp_path}/planner.toml"
    with open(path, "w") as file:
        file.write(text)
    with pytest.raises(SettingsError, match=message):
        read_planner_config(ControlConfig(plan="act", planner_file=path))


def test_an_unknown_plan_or_profile_is_named() -> None:
    with pytest.raises(SettingsError, match="'yes' is not one of off, advise, act"):
        read_planner_config(ControlConfig(plan="yes"))
