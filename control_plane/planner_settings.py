"""The planner's parts from the control plane's settings: its configuration file, its sources."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from control_plane.autopilot import Autopilot, AutopilotParts, ModeSimulator
from control_plane.config import ControlConfig
from control_plane.observe.observer import Observer, Seen
from control_plane.observe.prometheus import PrometheusServer
from control_plane.observe.reading import TrafficSource
from control_plane.observe.scrape import Scrape
from control_plane.observe.workers import WorkerWatch
from control_plane.planner.config import PlannerConfig, PlannerConfigError
from control_plane.planner.demand import WorkerModel
from control_plane.planner.planner import Planner
from profiles.catalog import ProfileError, load_profile
from router.predictor import StepCosts
from runtime.clock import Clock
from runtime.settings import SettingsError

PLANS = ("off", "advise", "act")
_WINDOW_S = 15.0
_PROMETHEUS_WINDOW_S = 60.0  # two scrapes of the usual interval fit


def read_planner_config(config: ControlConfig) -> PlannerConfig:
    """The file's [planner] table over the defaults. Raises SettingsError naming field and limit."""
    if config.plan not in PLANS:
        raise SettingsError(f"plan: {config.plan!r} is not one of {', '.join(PLANS)}")
    if not config.planner_file:
        return PlannerConfig()
    path = Path(config.planner_file)
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the planner file {path}: {error}") from error
    table = content.get("planner", content)
    known = set(PlannerConfig.__dataclass_fields__)
    unknown = sorted(set(table) - known) if isinstance(table, dict) else []
    if unknown:
        raise SettingsError(f"{path}: unknown planner settings: {', '.join(unknown)}")
    try:
        return msgspec.convert(table, PlannerConfig, strict=False)
    except (msgspec.ValidationError, PlannerConfigError) as error:
        raise SettingsError(f"{path}: {error}") from error


def traffic_source(config: ControlConfig, clock: Clock) -> TrafficSource:
    """A Prometheus server where one is named, else the gateways themselves."""
    if config.prometheus_url:
        return PrometheusServer(
            config.prometheus_url, _PROMETHEUS_WINDOW_S, config.prometheus_token
        )
    urls = [url.strip() for url in config.gateway_metrics.split(",") if url.strip()]
    return Scrape(urls, clock, _WINDOW_S)


def seed_models(config: PlannerConfig) -> Mapping[str, WorkerModel]:
    """What profiles say of the kinds that name one. Raises SettingsError for an unknown one."""
    seeds = {}
    for kind in config.hardware:
        if not kind.profile:
            continue
        try:
            profile = load_profile(kind.profile)
        except ProfileError as error:
            raise SettingsError(f"hardware {kind.name}: {error}") from error
        costs = StepCosts(
            profile.step_s,
            profile.sequence_s,
            profile.context_token_s,
            profile.prefill_step_s,
            profile.prefill_token_s,
            profile.prefill_pair_s,
        )
        seeds[kind.name] = WorkerModel(costs, profile.kv_tokens, profile.max_num_seqs)
    return seeds


def build_autopilot(
    config: ControlConfig,
    parts: Callable[[Observer], AutopilotParts],
    seen: Seen,
    clock: Clock,
    wall_s: Callable[[], float],
    modes: ModeSimulator | None = None,
) -> Autopilot:
    """Raises SettingsError for a configuration that cannot be used."""
    planner_config = read_planner_config(config)
    seeds = seed_models(planner_config)
    costs = {name: model.costs for name, model in seeds.items()}
    watch = WorkerWatch(costs, planner_config.kind_of)
    observer = Observer(seen, watch, clock, wall_s)
    built = replace(parts(observer), modes=modes)
    return Autopilot(Planner(planner_config, seeds), built, acts=config.plan == "act")
