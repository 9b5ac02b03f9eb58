"""A scaler in the loop of a simulation: it sees what a gateway exports, and its wishes are done."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from baton.mode_case import case_of
from baton.mode_simulator import scores_of
from control_plane.observe.exposition import TrafficWindow
from control_plane.observe.workers import WorkerWatch
from control_plane.planner.types import Add, Decision, Flip, Objectives, Observation, Remove
from loadtest.plan import Workload
from loadtest.record import RequestRecord
from router.predictor import StepCosts
from runtime.metrics import GATEWAY_METRICS, Metrics
from simulate.pools import SimulatedPools
from simulate.run import Outcome, simulate
from simulate.spec import ClusterSpec
from wire.cluster import Mode, WorkerStatus
from wire.messages import Role

Decide = Callable[[Observation], Decision]
_MODE_PERIOD_S, _HISTORY_S = 180.0, 600.0  # the autopilot's


@dataclass(slots=True)
class PlannedPools:
    """A `simulate.pools.Controller`. arrivals_s: of the workload, for the gateway's own counter.
    objectives: those that modes are simulated for, None where the mode stays."""

    decide: Decide
    metrics: Metrics
    arrivals_s: list[float]
    period_s: float
    window: TrafficWindow
    watch: WorkerWatch
    objectives: Objectives | None = None
    decisions: list[Decision] = field(default_factory=list)
    _counted: int = 0
    _history: deque[Observation] = field(default_factory=deque)
    _scores: tuple[tuple[Mode, float], ...] = ()
    _scored_at_s: float = 0.0

    def tick(self, now_s: float, pools: SimulatedPools) -> None:
        arrived = bisect_right(self.arrivals_s, now_s)
        self.metrics.counter("baton_requests_accepted_total").inc(arrived - self._counted)
        self._counted = arrived
        reading = self.window.reading(now_s, {"simulation": self.metrics.exposition()})
        statuses = [
            WorkerStatus(process.info(), process.engine.report(), 0.0) for process in pools.workers
        ]
        starting = [role for _, role in pools.starting]
        seen = Observation(
            at_s=now_s,
            wall_s=now_s,
            workers=self.watch.figures(statuses, now_s, math.nan),
            traffic=reading.traffic,
            prefill=reading.prefill,
            decode=reading.decode,
            starting_prefill=starting.count(Role.PREFILL),
            starting_decode=starting.count(Role.DECODE),
            mode_scores=self._scores,
            num_refused=reading.num_refused,
        )
        self._score(seen)
        decision = self.decide(seen)
        self.decisions.append(decision)
        _apply(decision, pools)
        pools.serve_in(decision.mode)

    def _score(self, seen: Observation) -> None:
        """For the next ticks, as the autopilot has them from a process of their own."""
        self._history.append(seen)
        while seen.at_s - self._history[0].at_s > _HISTORY_S:
            self._history.popleft()
        if self.objectives is None or seen.at_s - self._scored_at_s < _MODE_PERIOD_S:
            return
        self._scored_at_s = seen.at_s
        case = case_of(tuple(self._history), self.objectives)
        self._scores = scores_of(case) if case is not None else ()


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """What a simulation with a scaler gave."""

    outcome: Outcome
    decisions: tuple[Decision, ...]

    def attainment(self, is_met: Callable[[RequestRecord], bool]) -> float:
        records = self.outcome.records
        return sum(map(is_met, records)) / len(records)

    @property
    def num_moves(self) -> int:
        return sum(
            not decision.holds and any(isinstance(a, Flip | Add | Remove) for a in decision.actions)
            for decision in self.decisions
        )


def planned_run(
    spec: ClusterSpec,
    workload: Workload,
    decide: Decide,
    *,
    period_s: float = 2.0,
    window_s: float = 15.0,
    objectives: Objectives | None = None,
) -> PlannedRun:
    """One simulation whose pools the scaler changes every period_s. objectives: modes are simulated
    for them too."""
    metrics = Metrics(GATEWAY_METRICS)
    controller = PlannedPools(
        decide,
        metrics,
        [conversation.at_s for conversation in workload.conversations],
        period_s,
        TrafficWindow(window_s),
        WorkerWatch({"": costs_of(spec)}),
        objectives,
    )
    outcome = simulate(spec, workload, controllers=[controller], metrics=metrics)
    return PlannedRun(outcome, tuple(controller.decisions))


def costs_of(spec: ClusterSpec) -> StepCosts:
    """What the operator's profile says; the watch goes on learning from there."""
    profile = spec.prefill_profile
    return StepCosts(
        profile.step_s,
        profile.sequence_s,
        profile.context_token_s,
        profile.prefill_step_s,
        profile.prefill_token_s,
        profile.prefill_pair_s,
    )


def _apply(decision: Decision, pools: SimulatedPools) -> None:
    for action in decision.actions:
        match action:
            case Flip(worker_id, to_role):
                pools.flip(worker_id, to_role)
            case Add(role, count):
                pools.add(role, count)
            case Remove(worker_id):
                pools.remove(worker_id)
