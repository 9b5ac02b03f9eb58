"""`baton simulate --planner`: the live planner moves the simulated pools."""

from dataclasses import dataclass, fields, replace

from rich.console import Console

from baton.bench.planned_pools import PlannedPools, costs_of
from control_plane.observe.exposition import TrafficWindow
from control_plane.observe.workers import WorkerWatch
from control_plane.planner.config import Hardware, PlannerConfig, PlannerConfigError
from control_plane.planner.planner import Planner
from control_plane.planner.types import Objectives
from loadtest.plan import Workload
from runtime.metrics import GATEWAY_METRICS, Metrics
from simulate.errors import SimulationError
from simulate.run import Outcome
from simulate.spec import ClusterSpec

_WINDOW_S = 15.0


@dataclass(frozen=True, slots=True)
class PlannedSimulation:
    """The planner behind what a gateway exports, for one simulation."""

    controller: PlannedPools
    metrics: Metrics

    def print_decisions(self, console: Console, outcome: Outcome) -> None:
        """Each change with its reason, and what the pools took."""
        for decision in self.controller.decisions:
            if not decision.holds:
                reasons = "; ".join(action.reason for action in decision.actions)
                line = f"{decision.at_s:8.1f} s  {decision.actual} -> {decision.desired}: {reasons}"
                console.print(line, highlight=False, soft_wrap=True)
        hours = outcome.gpu_s / 3600
        console.print(f"{hours:.2f} GPU-hours, {outcome.usd:.2f} USD", highlight=False)


def planned_simulation(text: str, spec: ClusterSpec, workload: Workload) -> PlannedSimulation:
    """text: settings of PlannerConfig, `max_gpus=8 tick_s=2`. Raises SimulationError."""
    config, metrics = _config(text, spec), Metrics(GATEWAY_METRICS)
    arrivals_s = [conversation.at_s for conversation in workload.conversations]
    controller = PlannedPools(
        Planner(config).on_tick,
        metrics,
        arrivals_s,
        config.tick_s,
        TrafficWindow(_WINDOW_S),
        WorkerWatch({"": costs_of(spec)}),
    )
    return PlannedSimulation(controller, metrics)


def _config(text: str, spec: ClusterSpec) -> PlannerConfig:
    profile = spec.decode_profile
    start_s = profile.load_s + spec.pool_costs.start_s
    kind = Hardware("default", profile.usd_per_hour, profile.num_gpus, start_s=start_s)
    objectives = Objectives()
    if spec.ttft_slo_ms and spec.tpot_slo_ms:
        objectives = Objectives(spec.ttft_slo_ms / 1e3, spec.tpot_slo_ms / 1e3)
    config = PlannerConfig(objectives=objectives, hardware=(kind,))
    known = {
        field.name: type(getattr(config, field.name))
        for field in fields(PlannerConfig)
        if isinstance(getattr(config, field.name), int | float | str)
    }
    changes: dict[str, object] = {}
    for part in text.replace(",", " ").split():
        name, equals, value = part.partition("=")
        if not equals or name not in known:
            raise SimulationError(f"{part!r} in --planner: one of {', '.join(known)}, with =")
        try:
            changes[name] = value == "true" if known[name] is bool else known[name](value)
        except ValueError:
            raise SimulationError(f"{part!r} in --planner is no number") from None
    try:
        return replace(config, **changes)  # type: ignore[arg-type]
    except PlannerConfigError as error:
        raise SimulationError(f"--planner: {error}") from error
