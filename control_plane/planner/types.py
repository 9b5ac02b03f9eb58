"""What the planner is told and what it says: values only, times in seconds."""

import math
from dataclasses import dataclass

from router.predictor import StepCosts
from wire.cluster import Mode
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a request should get, and the share of requests that should."""

    ttft_s: float = 2.0
    tpot_s: float = 0.05
    attainment: float = 0.97


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """One worker as it was seen last.

    costs: calibrated step costs, None while nobody knows them. kv_use: share of its blocks that
    sequences hold. age_s: of these figures. complaint: why they are not believed, empty if they
    are. group: workers of equal fingerprint pair. step_tokens: prompt tokens in a busy step.
    """

    worker_id: str
    role: Role
    costs: StepCosts | None = None
    kv_tokens: int = 0
    max_num_seqs: int = 256
    step_tokens: float = 2048.0
    num_running: int = 0
    num_waiting: int = 0
    waiting_tokens: int = 0
    context_tokens: int = 0
    kv_use: float = 0.0
    hardware: str = ""
    group: str = ""
    draining: bool = False
    flipping: bool = False
    age_s: float = 0.0
    complaint: str = ""

    @property
    def counts(self) -> bool:
        """It takes requests of its role."""
        return not self.draining


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rates and length moments of the last window, as the gateways counted them.

    A request has p cached and u uncached prompt tokens, and o output tokens. uncached_pairs: the
    mean of (p + u)^2 - p^2. context_tokens: what a decoding sequence holds in KV on average over
    its decode. ttft_slo_s, tpot_slo_s: means of what the gateways hold requests to; 0 where they do
    not say. num_waiting: requests that wait for any worker. age_s: of these figures. local_share:
    of the uncached tokens, those that decode workers compute by the router's choice.
    """

    requests_per_s: float = 0.0
    uncached_tokens: float = 0.0
    uncached_squares: float = 0.0
    uncached_pairs: float = 0.0
    cached_tokens: float = 0.0
    output_tokens: float = 0.0
    context_tokens: float = 0.0
    num_waiting: int = 0
    age_s: float = 0.0
    ttft_slo_s: float = 0.0
    tpot_slo_s: float = 0.0
    local_share: float = 0.0

    @property
    def generated_per_s(self) -> float:
        return self.requests_per_s * self.output_tokens


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """One pool's own latency over its own objective (TTFT of prefill, TPOT of decode), as the p90
    of the last window; None without requests. A metric of one role never stands in the other's.
    num_answers: of which the window knows.
    """

    ratio_p90: float | None = None
    attainment: float | None = None
    age_s: float = 0.0
    num_answers: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """The cluster at at_s of the planner's clock. wall_s: seconds since 1970, for schedules.

    starting: workers that were asked for and are not registered, by role; quotas and start-ups
    are the actuator's facts. traffic is None where nobody could be asked. mode_scores: the
    attainment that each mode would have given in the last minutes, where that was simulated.
    mode: that gateways follow, None where nobody has chosen one. goodput_per_s: answers that met
    both objectives; it decides nothing and is shown. num_refused: requests that admission refused
    in the window of the latencies.
    """

    at_s: float
    wall_s: float
    workers: tuple[WorkerFigures, ...]
    traffic: Traffic | None
    prefill: PoolFigures = PoolFigures()
    decode: PoolFigures = PoolFigures()
    starting_prefill: int = 0
    starting_decode: int = 0
    mode_scores: tuple[tuple[Mode, float], ...] = ()
    goodput_per_s: float = math.nan
    mode: Mode | None = None
    num_refused: float = 0.0

    def of(self, role: Role) -> tuple[WorkerFigures, ...]:
        return tuple(worker for worker in self.workers if worker.role is role and worker.counts)

    def figures(self, role: Role) -> PoolFigures:
        return self.prefill if role is Role.PREFILL else self.decode

    def starting(self, role: Role) -> int:
        return self.starting_prefill if role is Role.PREFILL else self.starting_decode


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """Workers of either role."""

    prefill: int
    decode: int

    @property
    def total(self) -> int:
        return self.prefill + self.decode

    def of(self, role: Role) -> int:
        return self.prefill if role is Role.PREFILL else self.decode

    def __str__(self) -> str:
        return f"{self.prefill}P{self.decode}D"


@dataclass(frozen=True, slots=True)
class Flip:
    """The worker takes the other role, in place."""

    worker_id: str
    to_role: Role
    reason: str


@dataclass(frozen=True, slots=True)
class Add:
    """count more workers of a role. hardware: a kind of the configuration, empty for the only."""

    role: Role
    count: int
    hardware: str
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """The worker drains and ends."""

    worker_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing is done, and why."""

    reason: str


Action = Flip | Add | Remove | Hold


@dataclass(frozen=True, slots=True)
class Decision:
    """What should be, and the steps towards it that are due. At least one action: Hold if none.

    actual counts the workers that serve, desired is where the pools should go. inputs: what was
    looked at, by name. alarms: what an operator should know, one sentence each.
    """

    at_s: float
    mode: Mode
    actual: PoolSizes
    desired: PoolSizes
    actions: tuple[Action, ...]
    inputs: tuple[tuple[str, float], ...] = ()
    alarms: tuple[str, ...] = ()
    summary: str = ""

    @property
    def holds(self) -> bool:
        return all(isinstance(action, Hold) for action in self.actions)

    def input(self, name: str) -> float:
        """NaN for an input that was not there."""
        return dict(self.inputs).get(name, math.nan)
