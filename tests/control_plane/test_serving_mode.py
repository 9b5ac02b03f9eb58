"""Which mode gateways are told, by whom, and what a restart makes of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from planner_cases import seen, traffic

from control_plane.autopilot import Autopilot, AutopilotParts
from control_plane.config import ControlConfig
from control_plane.overrides import Overrides
from control_plane.planner.config import PlannerConfig
from control_plane.planner.planner import Planner
from control_plane.planner.types import Observation
from control_plane.registry import Registry
from control_plane.server import ControlServer
from runtime.clock import SystemClock, VirtualClock
from runtime.metrics import CONTROL_METRICS, Metrics
from wire import rpc
from wire.cluster import ClusterSnapshot, Mode, ServingMode

LOAD = traffic(24, 6000, 100)
LATE = ServingMode(Mode.AGGREGATED, 9)


class Advised:
    """An autopilot whose platform takes everything and does nothing."""

    def __init__(self, config: PlannerConfig, acts: bool = True) -> None:
        self.registry = Registry(VirtualClock())
        self.clock = VirtualClock()
        self.overrides = Overrides()
        self.scores: tuple[tuple[Mode, float], ...] = ()
        parts = AutopilotParts(
            observer=self,  # type: ignore[arg-type]
            actuator=self,  # type: ignore[arg-type]
            order=self._ignore,
            overrides=self.overrides,
            clock=self.clock,
            wall_s=self.clock.now,
            metrics=Metrics(CONTROL_METRICS),
            serving=lambda: self.registry.serving,
            tell_mode=self.registry.tell_mode,
        )
        self.autopilot = Autopilot(Planner(config), parts, acts)

    async def observe(self) -> Observation:
        at_s = self.clock.now()
        return replace(seen(0.0, 4, 4, LOAD), at_s=at_s, wall_s=at_s, mode_scores=self.scores)

    async def recommend(self, prefill: int, decode: int) -> None: ...

    async def _ignore(self, worker_id: str, order: object) -> None: ...

    async def tick(self) -> Mode:
        self.clock.advance(5.0)
        return (await self.autopilot.tick()).decision.mode


async def test_gateways_are_told_the_mode_that_the_planner_acts_in() -> None:
    pilot = Advised(PlannerConfig(can_scale=False, mode="disaggregated"))
    assert pilot.registry.serving == ServingMode(Mode.HYBRID, 0)
    await pilot.tick()
    assert pilot.registry.serving == ServingMode(Mode.DISAGGREGATED, 1)
    version = pilot.registry.version
    await pilot.tick()
    assert pilot.registry.version == version, "no news makes no snapshot"
    pilot.autopilot.configure(PlannerConfig(can_scale=False, mode="aggregated"))
    await pilot.tick()
    assert pilot.registry.serving == ServingMode(Mode.AGGREGATED, 2)


@pytest.mark.parametrize("acts", [False, True])
async def test_a_planner_that_advises_or_is_paused_tells_nothing(acts: bool) -> None:
    pilot = Advised(PlannerConfig(can_scale=False, mode="disaggregated"), acts)
    pilot.overrides.paused_by = "ann" if acts else ""
    assert await pilot.tick() is Mode.DISAGGREGATED
    assert pilot.registry.serving == ServingMode()


async def test_a_planner_that_chooses_goes_on_in_the_mode_that_gateways_follow() -> None:
    pilot = Advised(PlannerConfig(can_scale=False, mode="auto"))
    pilot.registry.heard_mode(LATE)
    assert await pilot.tick() is Mode.AGGREGATED
    assert pilot.registry.serving == LATE
    pilot.scores = ((Mode.AGGREGATED, 0.4), (Mode.HYBRID, 0.99), (Mode.DISAGGREGATED, 0.5))
    assert await pilot.tick() is Mode.HYBRID
    assert pilot.registry.serving == ServingMode(Mode.HYBRID, LATE.epoch + 1)


def test_the_higher_epoch_counts() -> None:
    registry = Registry(VirtualClock())
    registry.tell_mode(Mode.DISAGGREGATED)
    for lower in (ServingMode(), ServingMode(Mode.AGGREGATED, 1)):
        registry.heard_mode(lower)
        assert registry.serving == ServingMode(Mode.DISAGGREGATED, 1)
    registry.heard_mode(LATE)
    assert registry.snapshot.serving == LATE
    registry.tell_mode(LATE.mode)
    assert registry.serving == LATE


@contextlib.asynccontextmanager
async def watched(plan: str, follows: ServingMode) -> AsyncIterator[ClusterSnapshot]:
    """What a gateway that follows this is told first by a process that has just started."""
    config = ControlConfig(port=0, http_port=-1, settle_s=0.0, plan=plan)
    server = ControlServer(config, SystemClock())
    await server.start()
    channel = rpc.open_channel(f"127.0.0.1:{server.port}")
    try:
        async with asyncio.timeout(30):
            yield await anext(rpc.watch(channel, "gateway", follows=follows))
    finally:
        await channel.close()
        await server.stop()


async def test_a_restarted_control_plane_goes_on_with_the_mode_that_a_gateway_brings() -> None:
    async with watched("act", LATE) as snapshot:
        assert snapshot.serving == LATE


@pytest.mark.parametrize("plan", ["off", "advise"])
async def test_without_a_planner_that_acts_gateways_go_back_to_their_policy(plan: str) -> None:
    async with watched(plan, LATE) as snapshot:
        assert snapshot.serving == ServingMode(Mode.HYBRID, LATE.epoch + 1)
