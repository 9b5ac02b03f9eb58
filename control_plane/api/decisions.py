"""A planner's decision as the API shows it."""

import math
from itertools import zip_longest

from control_plane.api.shapes import DecisionView, StepView
from control_plane.planner.types import Action, Add, Decision, Flip, Hold, Remove
from control_plane.planning import RecordedDecision


def decision_view(recorded: RecordedDecision) -> DecisionView:
    decision = recorded.decision
    return DecisionView(
        id=recorded.number,
        at_s=recorded.at_s,
        serving=decision.mode.value,
        prefill=decision.desired.prefill,
        decode=decision.desired.decode,
        steps=steps_of(decision, recorded.outcomes),
        reasons=reasons_of(decision),
        inputs=inputs_of(decision),
        acted=recorded.acted,
    )


def steps_of(decision: Decision, outcomes: tuple[str, ...] = ()) -> list[StepView]:
    """outcomes: one per action, or none."""
    pairs = zip_longest(decision.actions, outcomes[: len(decision.actions)], fillvalue="")
    return [_step(action, outcome) for action, outcome in pairs if not isinstance(action, str)]


def reasons_of(decision: Decision) -> list[str]:
    """The summary, then what an operator should know."""
    return [text for text in (decision.summary, *decision.alarms) if text]


def inputs_of(decision: Decision) -> dict[str, float]:
    """JSON has no infinity and no NaN: what has no number is left out."""
    return {name: value for name, value in decision.inputs if math.isfinite(value)}


def _step(action: Action, outcome: str) -> StepView:
    match action:
        case Flip(worker_id, role, reason):
            return StepView(
                kind="flip", reason=reason, worker_id=worker_id, role=role.value, outcome=outcome
            )
        case Add(role, count, hardware, reason):
            return StepView(
                kind="add",
                reason=reason,
                role=role.value,
                count=count,
                hardware=hardware,
                outcome=outcome,
            )
        case Remove(worker_id, reason):
            return StepView(kind="remove", reason=reason, worker_id=worker_id, outcome=outcome)
        case Hold(reason):
            return StepView(kind="hold", reason=reason, outcome=outcome)
