"""The planner: one observation in, one decision out. Pure: time comes with the observation."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from control_plane.planner.bounds import Bounds, bounds_at, held_back
from control_plane.planner.config import PlannerConfig
from control_plane.planner.demand import WorkerModel
from control_plane.planner.forecast import RateForecast
from control_plane.planner.headroom import Headrooms
from control_plane.planner.learned import Learned
from control_plane.planner.needs import Growth, Needs, PoolNeed, WorkerModels, needs
from control_plane.planner.orders import Orders
from control_plane.planner.patience import CoolDowns, Evidence
from control_plane.planner.telling import complaints, inputs_of, summary_of
from control_plane.planner.trust import Trust
from control_plane.planner.types import (
    Action,
    Add,
    Decision,
    Flip,
    Hold,
    Objectives,
    Observation,
    PoolSizes,
    Remove,
    Traffic,
    WorkerFigures,
)
from control_plane.planner.wishes import Targets, Wishes
from wire.cluster import Mode
from wire.messages import Role

_SETTLE_S = 75.0  # after an action, until the latencies of before it have left their window
_FORECAST_PERIOD_S = 5.0
_LEAST_STEP_S = 15.0  # of what is learned, so that a surge's misses come before the next one
_BETTER_MODE = 0.02  # of attainment; less may be the simulation's chance


class Planner:
    """Keeps forecasts, evidence and cool-downs between ticks; `what_if` touches none of them.

    seeds: worker models by hardware kind, for kinds that were not seen at work.
    """

    def __init__(
        self, config: PlannerConfig, seeds: Mapping[str, WorkerModel] | None = None
    ) -> None:
        self._models = WorkerModels(seeds or {})
        self._trust = Trust(config.stale_s)
        self._orders = Orders()
        self._desired: PoolSizes | None = None
        self._mode = Mode.HYBRID if config.mode == "auto" else Mode(config.mode)
        self._busy_at_s = -math.inf
        self._headroom = Headrooms()
        self._configure(config)

    @property
    def config(self) -> PlannerConfig:
        return self._config

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def learned(self) -> Learned | None:
        """What a planner after this one should know; None before there is anything."""
        return self._headroom.learned

    def go_on_from(self, learned: Learned | None) -> None:
        """Another planner has learned it; what this one has told itself changes nothing."""
        self._headroom.go_on_from(learned)

    def reconfigure(self, config: PlannerConfig) -> None:
        """From the next tick on; what is in flight stays known."""
        if config.mode != "auto":
            self._mode = Mode(config.mode)
        self._configure(config)

    def on_tick(self, seen: Observation, acts: bool = True) -> Decision:
        """What should be, and what to do about it. Without fresh data: the last wish, held.

        acts: the caller carries the actions out, and calls `failed` for those that it could not.
        """
        if self._config.mode == "auto" and acts and seen.mode is not None:
            self._mode = seen.mode
        problem = self._trust.problem(seen)
        traffic = seen.traffic
        if problem or traffic is None:
            return self._held(seen, problem or "no traffic figures")
        late = self._orders.settle(seen)
        seen = self._orders.applied_to(seen)
        self._learn(seen, traffic)
        bounds = bounds_at(self._config, seen.wall_s, self._may_be_empty(seen.at_s))
        found = self._needs(seen, traffic, bounds)
        if found is None:
            return self._without_costs(seen, bounds, late, acts)
        near = found.grown(self._growth(traffic, self._config.flip_s))
        ahead = found.grown(self._growth(traffic, self._start_s))
        desired = self._stable(seen, bounds, ahead)
        enough = bounds.clamp(_needed(ahead, 0.0), ahead)
        wishes = Wishes(self._config, self._models, self._cooldowns, self._evidence)
        actions, alarms = wishes.actions(
            seen, traffic, bounds, near, Targets(desired, enough, self._mode)
        )
        if acts:
            self._note(seen.at_s, actions)
        self._desired = desired
        return Decision(
            seen.at_s,
            self._mode,
            _sizes(seen),
            desired,
            actions,
            inputs=self._inputs(seen, near, traffic),
            alarms=(*late, *complaints(seen, near), *alarms),
            summary=summary_of(_sizes(seen), desired, near),
        )

    def failed(self, action: Action) -> None:
        """The action was not carried out: nothing is in flight for it."""
        if isinstance(action, Flip | Remove):
            self._orders.forget(action.worker_id)

    def what_if(
        self,
        seen: Observation,
        traffic: Traffic,
        objectives: Objectives | None = None,
        pinned_by: str = "",
    ) -> Decision:
        """The pools that a supposed traffic would need, without anything being done. What keeps
        them from the sizes that are enough is told. pinned_by: who set the limits of the
        configuration as a pin."""
        bounds = bounds_at(self._config, seen.wall_s, may_be_empty=True)
        supposed = replace(
            seen,
            workers=tuple(_idle(worker) for worker in seen.workers),
            prefill=replace(seen.prefill, ratio_p90=None),
            decode=replace(seen.decode, ratio_p90=None),
        )
        found = needs(supposed, traffic, self._models, objectives or self._config.objectives, False)
        actual = _sizes(seen)
        if found is None:
            why = "no worker's step times are known yet: these are the workers of now"
            return Decision(seen.at_s, self._mode, actual, actual, (Hold(why),), alarms=(why,))
        found = _in_mode(found, self._mode)
        enough = _needed(found, 0.0)
        desired = bounds.clamp(enough, found)
        hold = Hold("a supposed load: nothing is done")
        held = held_back(self._config, bounds, enough, desired, pinned_by)
        return Decision(
            seen.at_s,
            self._mode,
            actual,
            desired,
            (hold,),
            inputs=self._inputs(seen, found, traffic),
            alarms=(*complaints(supposed, found), *([held] if held else [])),
            summary=summary_of(actual, desired, found),
        )

    # --- what is known ---------------------------------------------------------------------------

    def _configure(self, config: PlannerConfig) -> None:
        self._config = config
        self._start_s = max(kind.start_s for kind in config.hardware)
        self._cooldowns = CoolDowns(
            config.flip_cooldown_s, config.add_cooldown_s, config.remove_cooldown_s
        )
        self._evidence = {name: Evidence(config.confirm_ticks) for name in ("flip", "add")}
        self._evidence["remove"] = Evidence(config.confirm_ticks)
        self._prompts = RateForecast(_FORECAST_PERIOD_S, config.season_s)
        self._answers = RateForecast(_FORECAST_PERIOD_S, config.season_s)
        self._floors: deque[tuple[float, PoolSizes]] = deque()

    def _learn(self, seen: Observation, traffic: Traffic) -> None:
        self._prompts.observe(seen.at_s, traffic.requests_per_s * traffic.uncached_tokens)
        self._answers.observe(seen.at_s, traffic.generated_per_s)
        if traffic.requests_per_s > 0 or traffic.num_waiting or self._busy_at_s == -math.inf:
            self._busy_at_s = seen.at_s
        if any(worker.num_running or worker.num_waiting for worker in seen.workers):
            self._busy_at_s = seen.at_s

    def _may_be_empty(self, at_s: float) -> bool:
        limit_s = self._config.idle_to_zero_s
        return limit_s > 0 and at_s - self._busy_at_s >= limit_s

    def _needs(self, seen: Observation, traffic: Traffic, bounds: Bounds) -> Needs | None:
        is_settled = self._cooldowns.since_any_s(seen.at_s) > _SETTLE_S
        objectives = self._objectives(traffic)
        found = needs(seen, traffic, self._models, objectives, is_settled)
        if found is None:
            return None
        if self._config.mode == "auto" and seen.mode_scores:
            self._mode = self._best_mode(dict(seen.mode_scores), found, bounds)
        found = _in_mode(found, self._mode)
        step_s = max(_LEAST_STEP_S, self._config.remove_cooldown_s / 2)
        return self._headroom.eased(seen, found, self._mode, self._config.objectives, step_s)

    def _best_mode(self, scores: dict[Mode, float], found: Needs, bounds: Bounds) -> Mode:
        """Of those that attain as much as the best, the one that needs the fewest workers by the
        model: what is observed is of the present one. Another one must do so with room to spare."""
        asked = found.by_model()

        def cost(mode: Mode) -> tuple[int, bool, float]:
            own = _in_mode(asked, mode)
            room = 0.0 if mode is self._mode else self._config.dead_band
            size = bounds.clamp(_needed(own, room), own).total
            return size, mode is not self._mode, -scores[mode]

        least = max(scores.values()) - _BETTER_MODE
        return min((mode for mode in scores if scores[mode] >= least), key=cost)

    def _objectives(self, traffic: Traffic) -> Objectives:
        """The gateways' where they tell them, else the configured ones."""
        own = self._config.objectives
        return replace(
            own,
            ttft_s=traffic.ttft_slo_s or own.ttft_s,
            tpot_s=traffic.tpot_slo_s or own.tpot_s,
        )

    def _growth(self, traffic: Traffic, horizon_s: float) -> Growth:
        prompts = traffic.requests_per_s * traffic.uncached_tokens
        return Growth(
            self._prompts.growth(horizon_s, prompts),
            self._answers.growth(horizon_s, traffic.generated_per_s),
        )

    # --- what is wanted --------------------------------------------------------------------------

    def _stable(self, seen: Observation, bounds: Bounds, found: Needs) -> PoolSizes:
        """Where the pools should go. They shrink only to what was enough for a whole cool-down."""
        band = self._config.dead_band
        if not self._floors:  # what is here is enough until it has been watched for so long
            self._floors.append((seen.at_s, _sizes(seen)))
        self._floors.append((seen.at_s, _needed(found, band)))
        while self._floors[0][0] < seen.at_s - self._config.remove_cooldown_s:
            self._floors.popleft()
        floor = PoolSizes(
            max(sizes.prefill for _, sizes in self._floors),
            max(sizes.decode for _, sizes in self._floors),
        )
        wanted = PoolSizes(
            _with_band(found.prefill, floor.prefill, band),
            _with_band(found.decode, floor.decode, band),
        )
        return bounds.clamp(wanted, found)

    def _note(self, at_s: float, actions: tuple[Action, ...]) -> None:
        self._orders.given(at_s, actions)
        for action in actions:
            match action:
                case Flip():
                    self._cooldowns.flipped(at_s, action.to_role)
                case Add():
                    self._cooldowns.added(at_s)
                case Remove():
                    self._cooldowns.removed(at_s)

    # --- what is said ----------------------------------------------------------------------------

    def _held(self, seen: Observation, problem: str) -> Decision:
        actual = _sizes(seen)
        return Decision(
            seen.at_s,
            self._mode,
            actual,
            self._desired or actual,
            (Hold(problem),),
            alarms=(f"the planner holds: {problem}",),
            summary=f"{actual}: held, {problem}",
        )

    def _without_costs(
        self, seen: Observation, bounds: Bounds, alarms: tuple[str, ...], acts: bool
    ) -> Decision:
        """Nobody's step times are known: the floors are kept, and nothing else."""
        actual = _sizes(seen)
        desired = PoolSizes(
            max(actual.prefill, bounds.least.prefill), max(actual.decode, bounds.least.decode)
        )
        wishes = Wishes(self._config, self._models, self._cooldowns, self._evidence)
        actions = wishes.to_floors(seen, bounds) or (
            Hold("no worker's step times are known yet: they are learned from its first steps"),
        )
        if acts:
            self._note(seen.at_s, actions)
        return Decision(seen.at_s, self._mode, actual, desired, actions, alarms=alarms)

    def _inputs(
        self, seen: Observation, found: Needs, traffic: Traffic
    ) -> tuple[tuple[str, float], ...]:
        ahead = self._growth(traffic, self._start_s)
        return (
            *inputs_of(seen, found, traffic, ahead, self._start_s),
            *self._headroom.inputs(),
        )


def _sizes(seen: Observation) -> PoolSizes:
    return PoolSizes(len(seen.of(Role.PREFILL)), len(seen.of(Role.DECODE)))


def _needed(found: Needs, room: float) -> PoolSizes:
    return PoolSizes(found.prefill.needed(room), found.decode.needed(room))


def _in_mode(found: Needs, mode: Mode) -> Needs:
    if mode is Mode.AGGREGATED:
        return found.in_one_pool()
    return found.apart() if mode is Mode.DISAGGREGATED else found


def _idle(worker: WorkerFigures) -> WorkerFigures:
    return replace(worker, num_running=0, num_waiting=0, waiting_tokens=0, kv_use=0.0)


def _with_band(pool: PoolNeed, floor: int, band: float) -> int:
    """More as soon as pressure is over the band, fewer only down to the floor."""
    if pool.pressure() > 1 + band / 2:
        return max(pool.num_workers + 1, pool.needed())
    return min(pool.num_workers, floor)
