"""What the operator API takes: the body of each action, validated where it enters.

An unknown field is refused. dry_run: answer with the plan and change nothing.
"""

from typing import Annotated

import msgspec

from control_plane.api.shapes import RoleName

MAX_WORKERS = 10_000
MAX_PIN_MINUTES = 10_080  # a week
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_WORKERS)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS)]
Minutes = Annotated[float, msgspec.Meta(ge=0, le=MAX_PIN_MINUTES)]
WorkerId = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
Reason = Annotated[str, msgspec.Meta(max_length=500)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Tokens = Annotated[float, msgspec.Meta(gt=0, le=1e7)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON object that this API reads."""


class ActionBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all actions take; reason goes to the audit log."""

    dry_run: bool = False
    reason: Reason = ""


class RatioBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Splits the live workers prefill:decode, by flips, and pins the result."""

    prefill: Count
    decode: Count


class PauseBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The planner goes on deciding and does nothing."""


class ResumeBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ends a pause."""


class PinBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Holds both pools at these sizes; minutes 0: until unpinned."""

    prefill: Count
    decode: Count
    minutes: Minutes = 0.0


class UnpinBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gives the pool sizes back to the planner."""


class DrainBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The worker takes no new request, ends its running ones, and leaves."""

    worker_id: WorkerId


class FlipBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The worker takes the other role, in place."""

    worker_id: WorkerId
    role: RoleName


class AddBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Has the actuator start workers; hardware names a kind where there are several."""

    role: RoleName
    count: AtLeastOne = 1
    hardware: str = ""


class RemoveBody(ActionBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Has the actuator end a worker for good, after it has drained."""

    worker_id: WorkerId


class WhatIfBody(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A supposed load. Means; objectives of 0 are the configured ones."""

    requests_s: Rate
    prompt_tokens: Tokens
    output_tokens: Tokens
    cached_share: Share = 0.0
    ttft_slo_ms: Annotated[float, msgspec.Meta(ge=0, le=1e7)] = 0.0
    tpot_slo_ms: Annotated[float, msgspec.Meta(ge=0, le=1e7)] = 0.0


# the last part of the path under /api/v1/actions/ -> its body
ACTIONS: dict[str, type[ActionBody]] = {
    "ratio": RatioBody,
    "pause": PauseBody,
    "resume": ResumeBody,
    "pin": PinBody,
    "unpin": UnpinBody,
    "drain": DrainBody,
    "flip": FlipBody,
    "add": AddBody,
    "remove": RemoveBody,
}
