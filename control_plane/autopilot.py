"""The planner's edge: observe, decide, act, once a tick. The one place that carries plans out."""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from control_plane.actuators.actuator import Actuator, ActuatorConflict, ActuatorRefused
from control_plane.leadership import NotLeader
from control_plane.lessons import Lessons
from control_plane.observe.observer import Observer
from control_plane.overrides import Overrides
from control_plane.planner.config import PlannerConfig, PlannerConfigError
from control_plane.planner.planner import Planner
from control_plane.planner.types import (
    Action,
    Add,
    Decision,
    Flip,
    Hold,
    Objectives,
    Observation,
    Remove,
    Traffic,
)
from control_plane.planning import RecordedDecision, Stance, SupposedLoad
from runtime.clock import Clock
from runtime.log import get_logger
from runtime.metrics import Metrics
from wire.cluster import ControlOrder, Mode, OrderKind, ServingMode
from wire.errors import BatonError, ErrorCode
from wire.messages import Role

_KEPT_DECISIONS = 500
_MODE_PERIOD_S = 180.0
_HISTORY_S = 600.0
_SUPPOSED_CV2 = 1.0  # of prompt lengths, where no traffic shows theirs
_UNDONE = (ActuatorRefused, ActuatorConflict, NotLeader, BatonError, OSError)
_log = get_logger("control_plane")


class ModeSimulator(Protocol):
    """Says how each mode would have served the last minutes."""

    async def scores(
        self, history: tuple[Observation, ...], objectives: Objectives
    ) -> tuple[tuple[Mode, float], ...]:
        """The share of requests within both objectives, by mode. It may take many seconds."""


@dataclass(frozen=True, slots=True)
class AutopilotParts:
    """Whom the autopilot asks and tells. order hands a worker its flip. may_act: this process is
    the leader. leads_elsewhere: another one is, and hears the workers in its place. next_number:
    of the next decision. wall_s: seconds since 1970. serving, tell_mode: the mode that
    gateways follow. lessons: what outlives this process."""

    observer: Observer
    actuator: Actuator
    order: Callable[[str, ControlOrder], Awaitable[None]]
    overrides: Overrides
    clock: Clock
    wall_s: Callable[[], float]
    metrics: Metrics
    may_act: Callable[[], bool] = lambda: True
    leads_elsewhere: Callable[[], bool] = lambda: False
    next_number: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)
    modes: ModeSimulator | None = None
    serving: Callable[[], ServingMode] = ServingMode
    tell_mode: Callable[[Mode], None] = lambda mode: None
    lessons: Lessons = field(default_factory=Lessons)


class Autopilot:
    """A `Planning`. Whoever calls `run` cancels it.

    acts: decisions are carried out, unless an operator paused it or another process leads; else
    they are recorded, and exported as the number of workers that there should be.
    """

    def __init__(self, planner: Planner, parts: AutopilotParts, acts: bool) -> None:
        self._planner = planner
        self._parts = parts
        self._acts = acts
        self._wanted = planner.config  # the operator's, without a pin
        self._recorded: deque[RecordedDecision] = deque(maxlen=_KEPT_DECISIONS)
        self._history: deque[Observation] = deque()
        self._modes_at_s = -float("inf")
        self._modes: asyncio.Task[None] | None = None

    # --- what an operator asks -------------------------------------------------------------------

    def stance(self) -> Stance:
        return Stance.ACT if self._acts else Stance.ADVISE

    def decisions(self) -> tuple[RecordedDecision, ...]:
        return tuple(self._recorded)

    def config(self) -> PlannerConfig:
        return self._wanted

    def configure(self, config: PlannerConfig) -> None:
        self._wanted = config

    def what_if(self, load: SupposedLoad) -> Decision:
        """Raises BatonError UNAVAILABLE before the first observation."""
        if not self._history:
            raise BatonError(ErrorCode.UNAVAILABLE, "nothing was observed yet; try in a moment")
        seen = self._history[-1]
        now = self._wanted.objectives
        objectives = replace(
            now, ttft_s=load.ttft_slo_s or now.ttft_s, tpot_s=load.tpot_slo_s or now.tpot_s
        )
        self._take_config()
        pin = self._parts.overrides.pin_at(self._parts.wall_s())
        traffic = supposed_traffic(load, seen.traffic)
        return self._planner.what_if(seen, traffic, objectives, pin.who if pin else "")

    # --- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ticks until cancelled, while no other process leads. A tick that fails is logged, and
        the next one comes."""
        try:
            while True:
                begun_s = self._parts.clock.now()
                try:
                    if self._parts.leads_elsewhere():
                        self._parts.metrics.gauge("baton_control_is_leader").set(0)
                    else:
                        await self.tick()
                except Exception:  # a task's edge: the next tick comes
                    _log.exception("a planner tick failed")
                left_s = begun_s + self._wanted.tick_s - self._parts.clock.now()
                await asyncio.sleep(max(0.0, left_s))
        finally:
            if self._modes is not None:
                self._modes.cancel()

    async def tick(self) -> RecordedDecision:
        """Observes, decides, and acts where it may."""
        begun_s = self._parts.clock.now()
        self._take_config()
        seen = await self._parts.observer.observe()
        serving = self._parts.serving()
        seen = replace(seen, mode=serving.mode if serving.epoch else None)
        self._remember(seen)
        acts = self._acts and self._parts.may_act() and not self._parts.overrides.is_paused
        self._planner.go_on_from(self._parts.lessons.held)
        decision = self._planner.on_tick(seen, acts)
        self._parts.lessons.held = self._planner.learned
        outcomes = await self._carry_out(decision) if acts else ()
        if acts:
            self._parts.tell_mode(decision.mode)
        await self._recommend(decision)
        number = self._parts.next_number()
        recorded = RecordedDecision(number, self._parts.wall_s(), decision, outcomes)
        self._tell(recorded, seen)
        self._recorded.append(recorded)
        histogram = self._parts.metrics.histogram("baton_control_tick_seconds")
        histogram.observe(self._parts.clock.now() - begun_s)
        return recorded

    async def _carry_out(self, decision: Decision) -> tuple[str, ...]:
        return tuple([await self._outcome(action) for action in decision.actions])

    async def _outcome(self, action: Action) -> str:
        """done, refused: why, or failed: why. Empty for Hold."""
        try:
            match action:
                case Flip(worker_id, to_role):
                    await self._parts.order(worker_id, ControlOrder(OrderKind.FLIP, to_role))
                case Add(role, count, hardware):
                    await self._parts.actuator.add(role, count, hardware)
                case Remove(worker_id):
                    await self._parts.actuator.remove(worker_id)
                case Hold():
                    return ""
        except _UNDONE as error:
            self._planner.failed(action)
            name = type(action).__name__.lower()
            self._parts.metrics.counter("baton_control_failed_actions_total", action=name).inc()
            how = "refused" if isinstance(error, ActuatorRefused) else "failed"
            _log.warning("an action was not done", action=name, how=how, reason=str(error))
            return f"{how}: {error}"
        return "done"

    async def _recommend(self, decision: Decision) -> None:
        desired = decision.desired
        for role in Role:
            gauge = self._parts.metrics.gauge("baton_control_desired_workers", role=role.value)
            gauge.set(desired.of(role))
        if not self._parts.may_act():
            return
        try:
            await self._parts.actuator.recommend(desired.prefill, desired.decode)
        except _UNDONE as error:
            _log.warning("the recommendation was not taken", reason=str(error))

    # --- what is kept and told -------------------------------------------------------------------

    def _take_config(self) -> None:
        """The operator's configuration, with a pin's sizes as both pools' limits."""
        config, pin = self._wanted, self._parts.overrides.pin_at(self._parts.wall_s())
        if pin is not None:
            sizes = pin.sizes
            try:
                config = replace(
                    config,
                    min_prefill=sizes.prefill,
                    max_prefill=sizes.prefill,
                    min_decode=sizes.decode,
                    max_decode=sizes.decode,
                    schedules=(),
                )
            except PlannerConfigError as error:
                _log.warning("the pin is not followed", sizes=str(sizes), reason=str(error))
        if config != self._planner.config:
            self._planner.reconfigure(config)

    def _remember(self, seen: Observation) -> None:
        self._history.append(seen)
        while seen.at_s - self._history[0].at_s > _HISTORY_S:
            self._history.popleft()
        parts = self._parts
        is_due = seen.at_s - self._modes_at_s >= _MODE_PERIOD_S
        if parts.modes is None or self._wanted.mode != "auto" or not is_due:
            return
        if self._modes is None or self._modes.done():
            self._modes_at_s = seen.at_s
            self._modes = asyncio.create_task(self._score(parts.modes), name="mode-scores")

    async def _score(self, modes: ModeSimulator) -> None:
        try:
            scores = await modes.scores(tuple(self._history), self._wanted.objectives)
        except Exception:  # a task's edge: the mode stays as it is
            _log.exception("the modes could not be simulated")
            return
        self._parts.observer.mode_scores = scores
        _log.info("modes simulated", **{mode.value: round(score, 3) for mode, score in scores})

    def _tell(self, recorded: RecordedDecision, seen: Observation) -> None:
        decision, metrics = recorded.decision, self._parts.metrics
        for action in decision.actions:
            name = type(action).__name__.lower()
            metrics.counter("baton_control_decisions_total", action=name).inc()
        for role in Role:
            pressure = decision.input(f"pressure_{role.value}")
            metrics.gauge("baton_control_pressure_ratio", role=role.value).set(pressure)
        is_blind = any(alarm.startswith("the planner holds") for alarm in decision.alarms)
        metrics.gauge("baton_control_planner_held").set(is_blind)
        metrics.gauge("baton_control_is_leader").set(self._parts.may_act())
        age_s = seen.traffic.age_s if seen.traffic else float("nan")
        metrics.gauge("baton_control_observation_age_seconds").set(age_s)
        suspects = sum(bool(worker.complaint) for worker in seen.workers)
        metrics.gauge("baton_control_suspect_workers").set(suspects)
        before = self._recorded[-1].decision if self._recorded else None
        for alarm in decision.alarms:
            if before is None or alarm not in before.alarms:
                _log.warning("planner alarm", alarm=alarm)
        if not decision.holds:
            reasons = "; ".join(action.reason for action in decision.actions)
            _log.info(
                "decision", summary=decision.summary, reasons=reasons, outcomes=recorded.outcomes
            )


def supposed_traffic(load: SupposedLoad, live: Traffic | None) -> Traffic:
    """Means as a traffic; the spread of the prompts is that of the live ones."""
    uncached = load.prompt_tokens * (1 - load.cached_share)
    cv2 = _SUPPOSED_CV2
    if live is not None and live.uncached_tokens > 0:
        cv2 = max(0.0, live.uncached_squares / live.uncached_tokens**2 - 1)
    squares = (1 + cv2) * uncached**2
    cached = load.prompt_tokens - uncached
    return Traffic(
        requests_per_s=load.requests_per_s,
        uncached_tokens=uncached,
        uncached_squares=squares,
        uncached_pairs=2 * cached * uncached + squares,
        cached_tokens=cached,
        output_tokens=load.output_tokens,
        local_share=live.local_share if live is not None else 0.0,
        context_tokens=load.prompt_tokens + load.output_tokens / 2,
    )
