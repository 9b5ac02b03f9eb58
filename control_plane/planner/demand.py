"""How many workers either phase needs for a traffic: DESIGN §6, with the queues solved.

work per request   S   = a*u + e*((p + u)^2 - p^2) + steps
prefill pool       the smallest n with P(wait > TTFT SLO - S) <= 1 - attainment   (M/G/n)
decode batch       B*  = largest B with ITL(B, B*ctx) <= 0.9 * TPOT SLO whose KV fits
decode pool        (L + z*sqrt(L)) / B*,  L = generated tokens/s * ITL(B*)       (Little)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

from control_plane.planner.queueing import late_probability, max_load
from control_plane.planner.types import Objectives, Traffic
from router.predictor import StepCosts

_MAX_RHO = 0.92  # estimates of load are not exact
_SLO_SHARE = 0.9
_KV_SHARE = 0.9
_STEP_TOKENS = 2048  # prompt tokens in a busy step: what its base is shared by
_LEAST_SLACK = 0.1  # of the TTFT SLO, where the service alone takes it


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """A worker that the others are compared to."""

    costs: StepCosts
    kv_tokens: int
    max_num_seqs: int

    def service_s(self, traffic: Traffic) -> float:
        """Prefill of a mean request, alone."""
        return self.work_s(traffic) + self.costs.step_s + self.costs.prefill_step_s

    def work_s(self, traffic: Traffic) -> float:
        """What a mean request adds to a worker whose steps are full."""
        costs = self.costs
        base = (costs.step_s + costs.prefill_step_s) * traffic.uncached_tokens / _STEP_TOKENS
        compute = costs.prefill_token_s * traffic.uncached_tokens
        return base + compute + costs.prefill_pair_s * traffic.uncached_pairs

    def batch(self, context_tokens: float, tpot_s: float) -> float:
        """B*: sequences that decode together within the objective; at least 1."""
        costs, context = self.costs, max(1.0, context_tokens)
        sequence_s = costs.sequence_s + costs.context_token_s * context
        by_time = (_SLO_SHARE * tpot_s - costs.step_s) / sequence_s if sequence_s else math.inf
        by_memory = _KV_SHARE * self.kv_tokens / context if self.kv_tokens else math.inf
        return max(1.0, min(by_time, by_memory, self.max_num_seqs))

    def itl_s(self, batch: float, context_tokens: float) -> float:
        costs = self.costs
        return costs.step_s + (costs.sequence_s + costs.context_token_s * context_tokens) * batch

    def decode_rate(self, context_tokens: float, tpot_s: float) -> float:
        """Tokens a second at B*."""
        batch = self.batch(context_tokens, tpot_s)
        return batch / self.itl_s(batch, context_tokens)


@dataclass(frozen=True, slots=True)
class PrefillDemand:
    """What the prompts ask of a pool of equal workers. load: in workers that are always busy."""

    load: float
    service_s: float
    cv2: float
    slack_s: float
    late_share: float

    def carried_by(self, workers: float) -> float:
        """The load that so many workers carry within the objective."""
        if workers < 1:
            return 0.0
        by_queue = max_load(workers, self.service_s, self.cv2, self.slack_s, self.late_share)
        return min(by_queue, _MAX_RHO * workers)

    def pressure(self, workers: float) -> float:
        """The load over what is carried; 1 is just enough, infinite for load on nobody."""
        if not self.load:
            return 0.0
        carried = self.carried_by(workers)
        return self.load / carried if carried else math.inf

    def workers(self) -> int:
        """The smallest pool that carries the load; 0 without load."""
        if not self.load:
            return 0
        return _smallest(self._is_carried, math.ceil(self.load / _MAX_RHO))

    def scaled(self, factor: float) -> "PrefillDemand":
        return replace(self, load=self.load * factor)

    def _is_carried(self, workers: int) -> bool:
        if self.load > _MAX_RHO * workers:
            return False
        late = late_probability(workers, self.load, self.service_s, self.cv2, self.slack_s)
        return late <= self.late_share


@dataclass(frozen=True, slots=True)
class DecodeDemand:
    """What the answers ask: sequences that decode at once, with a margin for their number's
    spread, over what a worker takes. prompt_load: workers' worth of prompts in the same pool."""

    concurrency: float
    batch: float
    margin_sigmas: float
    prompt_load: float = 0.0

    @property
    def sequences(self) -> float:
        return self.concurrency + self.margin_sigmas * math.sqrt(self.concurrency)

    @property
    def load(self) -> float:
        """In workers."""
        return self.sequences / self.batch + self.prompt_load / _MAX_RHO

    def pressure(self, workers: float) -> float:
        if not self.load:
            return 0.0
        return self.load / workers if workers > 0 else math.inf

    def workers(self) -> int:
        return math.ceil(self.load - 1e-9)

    def scaled(self, factor: float) -> "DecodeDemand":
        return replace(
            self, concurrency=self.concurrency * factor, prompt_load=self.prompt_load * factor
        )


def prefill_demand(traffic: Traffic, model: WorkerModel, objectives: Objectives) -> PrefillDemand:
    service_s, late_share = model.service_s(traffic), 1 - objectives.attainment
    cv2 = _cv2(traffic)
    longest_s = service_s * (1 + _sigmas(objectives) * math.sqrt(cv2))
    slack_s = max(objectives.ttft_s - longest_s, _LEAST_SLACK * objectives.ttft_s)
    load = traffic.requests_per_s * model.work_s(traffic)
    return PrefillDemand(load, service_s, cv2, slack_s, late_share)


def decode_demand(traffic: Traffic, model: WorkerModel, objectives: Objectives) -> DecodeDemand:
    context = traffic.context_tokens
    batch = model.batch(context, objectives.tpot_s)
    concurrency = traffic.generated_per_s * model.itl_s(batch, context)
    return DecodeDemand(concurrency, batch, _sigmas(objectives))


def late_prompts(traffic: Traffic, model: WorkerModel, objectives: Objectives) -> str:
    """Why no number of workers meets the TTFT objective, empty if one does."""
    service_s = model.service_s(traffic)
    if traffic.requests_per_s and service_s > objectives.ttft_s:
        return f"a mean prompt takes {service_s:.2f} s, the TTFT objective is {objectives.ttft_s} s"
    return ""


def late_tokens(traffic: Traffic, model: WorkerModel, objectives: Objectives) -> str:
    """The same of the TPOT objective."""
    itl_s = model.itl_s(1, traffic.context_tokens)
    if itl_s > objectives.tpot_s:
        limit = f"the TPOT objective is {1e3 * objectives.tpot_s:.0f} ms"
        return f"a token takes {1e3 * itl_s:.0f} ms at least, {limit}"
    return ""


def _cv2(traffic: Traffic) -> float:
    """Squared coefficient of variation of the prompts' work, by their uncached tokens."""
    if traffic.uncached_tokens <= 0:
        return 1.0
    return max(0.0, traffic.uncached_squares / traffic.uncached_tokens**2 - 1)


def _sigmas(objectives: Objectives) -> float:
    return NormalDist().inv_cdf(objectives.attainment)


def _smallest(is_enough: Callable[[int], bool], least: int) -> int:
    """By doubling from least, then by halves."""
    high = max(1, least)
    while not is_enough(high):
        least, high = high + 1, 2 * high
    low = max(1, least)
    while low < high:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle + 1
    return high
