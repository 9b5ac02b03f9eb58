"""What the operator API shows: one struct per JSON object, and the source of its OpenAPI schemas.

Times are seconds since 1970 unless a name says otherwise; `_s` and `_ms` are durations.
"""

from typing import Any, Literal

import msgspec

RoleName = Literal["prefill", "decode"]
PlannerMode = Literal["off", "advise", "act"]
WorkerState = Literal["serving", "flipping", "draining", "silent"]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object that this API writes."""


class PoolView(Shape, frozen=True, kw_only=True):
    """One pool. desired: what the actuator was last asked for; recommended: what the planner
    would have, -1 while it has not decided yet. kv_use is a share of 1."""

    role: RoleName
    actual: int
    desired: int
    recommended: int = -1
    draining: int = 0
    flipping: int = 0
    num_running: int = 0
    num_waiting: int = 0
    waiting_tokens: int = 0
    kv_use: float = 0.0


class WorkerView(Shape, frozen=True, kw_only=True):
    """One worker with its last report. group: the fingerprint group, equal ones pair.

    flipping_to: the role that it is becoming, empty if none. num_restarts -1: not kept here.
    role_epoch: changes of the role in this process.
    """

    worker_id: str
    epoch: int
    role: RoleName
    state: WorkerState
    address: str
    group: str
    flipping_to: str = ""
    pid: int = 0
    beat_age_s: float = 0.0
    num_running: int = 0
    num_waiting: int = 0
    waiting_tokens: int = 0
    context_tokens: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    kv_use: float = 0.0
    num_exports: int = 0
    num_imports: int = 0
    num_steps: int = 0
    step_ms: float = 0.0
    max_model_len: int = 0
    num_restarts: int = -1
    metrics_url: str = ""
    role_epoch: int = 0


class PairView(Shape, frozen=True, kw_only=True):
    """How `target` measured the way from `source`; no transport: the probe failed.

    refusal: why target never reads from source, empty where it may. wanted_transport: what should
    have been used; another `transport` is a fallback.
    """

    source: str
    target: str
    transport: str
    latency_ms: float
    bandwidth_bytes_s: float
    alarms: list[str] = []
    refusal: str = ""
    wanted_transport: str = ""


class GroupView(Shape, frozen=True, kw_only=True):
    """Workers of one fingerprint. note: why some of them pair with nobody, empty if they do."""

    group: str
    model: str
    revision: str
    dtype: str
    kv_layout: str
    prefill: int
    decode: int
    note: str = ""


class ProcessView(Shape, frozen=True, kw_only=True):
    """A process, actor or pod that an actuator keeps."""

    name: str
    kind: str
    pid: int
    state: str
    num_restarts: int
    uptime_s: float
    detail: str = ""


class PinView(Shape, frozen=True, kw_only=True):
    """Pool sizes that an operator holds; until_s 0: until they are given back."""

    prefill: int
    decode: int
    who: str
    since_s: float
    until_s: float = 0.0


class PlannerView(Shape, frozen=True, kw_only=True):
    """mode: advise shows what it would do, act does it. serving: aggregated, hybrid or
    disaggregated, by the last decision. following: what gateways are told to do, which is hybrid
    until a planner acts; mode_epoch: how often it has changed. alarms: what an operator should
    know, such as data that is too old to act on."""

    mode: PlannerMode
    paused: bool
    serving: str = ""
    following: str = ""
    mode_epoch: int = 0
    pinned: PinView | None = None
    paused_by: str = ""
    last_decision: int = 0
    alarms: list[str] = []


class LeaderView(Shape, frozen=True, kw_only=True):
    """Who acts for this cluster. backend: redis, kubernetes, or none for a sole control plane.

    token: the fencing number of this term, which every actuation carries.
    """

    backend: str
    holder: str
    is_me: bool
    token: int = 0
    renewed_age_s: float = 0.0


class StatusView(Shape, frozen=True, kw_only=True):
    """GET /api/v1/status. notes: what an operator should know, such as a refused scale-up."""

    version: int
    at_s: float
    model: str
    pools: list[PoolView]
    workers: list[WorkerView]
    pairs: list[PairView]
    groups: list[GroupView]
    processes: list[ProcessView]
    planner: PlannerView
    leader: LeaderView
    actuator: str
    state: str = "memory"
    notes: list[str] = []


class StatusDelta(Shape, frozen=True, kw_only=True):
    """What differs from the status before: an event `status` of GET /api/v1/events.

    workers: those that changed or came. gone: ids of those that left. pairs, groups and
    processes are left out (null) while they are the same.
    """

    version: int
    at_s: float
    pools: list[PoolView]
    planner: PlannerView
    leader: LeaderView
    workers: list[WorkerView] = []
    gone: list[str] = []
    pairs: list[PairView] | None = None
    groups: list[GroupView] | None = None
    processes: list[ProcessView] | None = None
    notes: list[str] = []


class StepView(Shape, frozen=True, kw_only=True):
    """One step of a decision: flip, add, remove or hold, with its reason in words.

    outcome: empty while it is only advice; else done, refused or failed, and why.
    """

    kind: str
    reason: str
    worker_id: str = ""
    role: str = ""
    count: int = 0
    hardware: str = ""
    outcome: str = ""


class DecisionView(Shape, frozen=True, kw_only=True):
    """What the planner decided at one tick, from which figures."""

    id: int
    at_s: float
    serving: str
    prefill: int
    decode: int
    steps: list[StepView]
    reasons: list[str]
    inputs: dict[str, float]
    acted: bool


class DecisionsView(Shape, frozen=True, kw_only=True):
    """GET /api/v1/decisions: the newest first."""

    decisions: list[DecisionView]


class HistoryView(Shape, frozen=True, kw_only=True):
    """GET /api/v1/history: columns of equal length, null where nothing was measured.

    The names are those of `SERIES`.
    """

    step_s: float
    at_s: list[float]
    series: dict[str, list[float | None]]


class AuditEntry(Shape, frozen=True, kw_only=True):
    """One action: who asked for what, when, and what came of it: done, dry_run or refused."""

    id: int
    at_s: float
    who: str
    action: str
    body: dict[str, Any]
    outcome: str
    message: str
    dry_run: bool = False
    idempotency_key: str = ""


class AuditView(Shape, frozen=True, kw_only=True):
    """GET /api/v1/audit: the newest first."""

    entries: list[AuditEntry]


class FlipEvent(Shape, frozen=True, kw_only=True):
    """An event `flip` of GET /api/v1/events: a live worker's role has changed."""

    worker_id: str
    from_role: RoleName
    to_role: RoleName
    at_s: float


class ActionResult(Shape, frozen=True, kw_only=True):
    """The answer to an action. plan: its steps in words, with dry_run those that it would take.

    What is refused is answered with an ErrorView, and has changed nothing.
    """

    id: int
    action: str
    outcome: Literal["done", "dry_run"]
    message: str
    plan: list[str] = []


class WhatIfAnswer(Shape, frozen=True, kw_only=True):
    """POST /api/v1/what-if: the planner's own answer for the supposed load."""

    serving: str
    prefill: int
    decode: int
    steps: list[StepView]
    reasons: list[str]
    inputs: dict[str, float]


class ErrorBody(Shape, frozen=True, kw_only=True):
    """code: a word for programs. field and limit: what was wrong with the input, else empty."""

    code: str
    message: str
    field: str = ""
    limit: str = ""


class ErrorView(Shape, frozen=True, kw_only=True):
    """Every answer whose status is 400 or more."""

    error: ErrorBody


# name -> what one point of it is
SERIES = {
    "prefill_workers": "live prefill workers",
    "decode_workers": "live decode workers",
    "prefill_recommended": "prefill workers that the planner would have",
    "decode_recommended": "decode workers that the planner would have",
    "requests_s": "requests a second",
    "uncached_tokens_s": "prompt tokens a second that had to be computed",
    "output_tokens_s": "generated tokens a second",
    "goodput_s": "requests a second that met both objectives",
    "ttft_attained": "share of requests that met the TTFT objective",
    "tpot_attained": "share of requests that met the TPOT objective",
    "queue": "requests that wait for their first step",
    "running": "sequences in the running batches",
    "prefill_kv_use": "share of the prefill pool's KV blocks in use",
    "decode_kv_use": "share of the decode pool's KV blocks in use",
}
