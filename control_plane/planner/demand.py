"""How many workers either phase needs for a traffic: DESIGN §6, with the queues solved.

work per request   S   = a*u + e*((p + u)^2 - p^2) + steps
prefill pool       the smallest n with P(wait > TTFT SLO - S) <= late              (M/G/n)
decode, by time    (L + z*sqrt(w*L)) / B,  ITL(B) = the TPOT SLO, L = tokens/s * ITL(B)  (Little)
prompts among them P workers' worth of them take P * SLO / (SLO - ITL(0)) workers from the batches;
                   in one pool their number in a life is random: a share's variance is
                   rho*S*(1 + cv2) / life
decode, by memory  the smallest n with P(wait > o * (SLO - ITL(C))) <= late, C sequences' KV
                   fill a worker                                                 (M/G/(n*C))

A request must keep both objectives, so either may be missed by half of what may miss: late. Its
TPOT is the mean over its own life, in which the number beside it moves: w is what such a mean
keeps of a variance whose correlation fades over a life.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

from control_plane.planner.queueing import late_probability, max_load
from control_plane.planner.types import Objectives, Traffic
from router.predictor import StepCosts

_MAX_RHO = 0.92  # estimates of load are not exact
_SLO_SHARE = 0.95  # step costs are not exact either
_KV_SHARE = 0.95  # sequences come in whole blocks and unequal lengths
_AVERAGED = 2 / math.e  # w: of exp(-t/T), over a life of T
_ANSWERS_CV2 = 1.0  # of their lengths, which gateways do not square
_LEAST_ROOM = 0.2  # of the TPOT SLO, where a lone step takes it
_LEAST_SLACK = 0.1  # of the TTFT SLO, where the service alone takes it


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """A worker that the others are compared to. step_tokens: prompt tokens in a busy step, by
    which the step's base is shared."""

    costs: StepCosts
    kv_tokens: int
    max_num_seqs: int
    step_tokens: float = 2048.0

    def service_s(self, traffic: Traffic) -> float:
        """Prefill of a mean request, alone."""
        return self.work_s(traffic) + self.costs.step_s + self.costs.prefill_step_s

    def work_s(self, traffic: Traffic) -> float:
        """What a mean request adds to a worker whose steps are full."""
        costs = self.costs
        base = (costs.step_s + costs.prefill_step_s) * traffic.uncached_tokens / self.step_tokens
        compute = costs.prefill_token_s * traffic.uncached_tokens
        return base + compute + costs.prefill_pair_s * traffic.uncached_pairs

    def batch(self, context_tokens: float, tpot_s: float) -> float:
        """B*: sequences that decode together within the objective; at least 1."""
        return min(self.timely(context_tokens, tpot_s), self.slots(context_tokens))

    def timely(self, context_tokens: float, tpot_s: float) -> float:
        """Sequences whose steps keep the objective."""
        costs, context = self.costs, max(1.0, context_tokens)
        sequence_s = costs.sequence_s + costs.context_token_s * context
        by_time = (_SLO_SHARE * tpot_s - costs.step_s) / sequence_s if sequence_s else math.inf
        return max(1.0, min(by_time, self.max_num_seqs))

    def slots(self, context_tokens: float) -> float:
        """Sequences whose KV fits."""
        by_memory = _KV_SHARE * self.kv_tokens / max(1.0, context_tokens)
        return max(1.0, min(by_memory if self.kv_tokens else math.inf, self.max_num_seqs))

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
    """What the answers ask. prompt_load: workers' worth of prompts in the same pool.

    concurrency: sequences that decode at once in batches that just keep the objective. held: the
    same in batches that fill the memory, slots to a worker; those that find none wait slack_s.
    stall_weight: what a prompt's second takes of the batches beside it, in seconds. bursts: mean
    squared over mean work of a prompt, as a share of an answer's life; 0 for prompts that the
    router puts where they disturb least.
    """

    concurrency: float
    batch: float
    margin_sigmas: float
    held: float
    slots: float
    service_s: float
    slack_s: float
    late_share: float
    prompt_load: float = 0.0
    stall_weight: float = 1.0
    bursts: float = 0.0

    def pressure(self, workers: float) -> float:
        """1 is just enough, infinite for load on nobody."""
        if not self.concurrency + self.prompt_load:
            return 0.0
        if workers <= 0:
            return math.inf
        return max(self._timely_load(workers) / workers, self._memory_pressure(workers))

    def workers(self) -> int:
        if not self.concurrency + self.prompt_load:
            return 0
        least = self.concurrency / self.batch + self.stall_weight * self.prompt_load
        by_time = _smallest(self._is_timely, math.ceil(least - 1e-9))
        if not self.concurrency:
            return by_time
        return max(by_time, _smallest(self._is_held, math.ceil(self.held / self.slots)))

    def scaled(self, factor: float) -> "DecodeDemand":
        return replace(
            self,
            concurrency=self.concurrency * factor,
            held=self.held * factor,
            prompt_load=self.prompt_load * factor,
        )

    def _timely_load(self, workers: float) -> float:
        """In workers, of so many that share it."""
        stalled = self.stall_weight * self.prompt_load
        of_prompts = self.stall_weight**2 * self.prompt_load * self.bursts * workers
        variance = _AVERAGED * self.concurrency / self.batch**2 + of_prompts
        return self.concurrency / self.batch + stalled + self.margin_sigmas * math.sqrt(variance)

    def _is_timely(self, workers: int) -> bool:
        return self._timely_load(workers) <= workers + 1e-9

    def _memory_pressure(self, workers: float) -> float:
        late = self.late_share
        carried = max_load(workers * self.slots, self.service_s, _ANSWERS_CV2, self.slack_s, late)
        return self.held / carried if carried else math.inf

    def _is_held(self, workers: int) -> bool:
        slots = workers * self.slots
        late = late_probability(slots, self.held, self.service_s, _ANSWERS_CV2, self.slack_s)
        return late <= self.late_share


def prefill_demand(traffic: Traffic, model: WorkerModel, objectives: Objectives) -> PrefillDemand:
    service_s, late_share = model.service_s(traffic), _late_share(objectives)
    cv2 = _cv2(traffic)
    longest_s = service_s * (1 + _sigmas(objectives) * math.sqrt(cv2))
    slack_s = max(objectives.ttft_s - longest_s, _LEAST_SLACK * objectives.ttft_s)
    load = traffic.requests_per_s * model.work_s(traffic) * (1 - traffic.local_share)
    return PrefillDemand(load, service_s, cv2, slack_s, late_share)


def decode_demand(
    traffic: Traffic, model: WorkerModel, objectives: Objectives, held_tokens: float = 0.0
) -> DecodeDemand:
    """held_tokens: KV that a sequence takes beside others that share its prefix; 0: its context."""
    context, tpot_s = traffic.context_tokens, objectives.tpot_s
    batch, slots = model.timely(context, tpot_s), model.slots(held_tokens or context)
    full_s = model.itl_s(min(batch, slots), context)
    room = 1 - model.costs.step_s / (_SLO_SHARE * tpot_s)
    return DecodeDemand(
        concurrency=traffic.generated_per_s * model.itl_s(batch, context),
        batch=batch,
        margin_sigmas=_sigmas(objectives),
        held=traffic.generated_per_s * full_s,
        slots=slots,
        service_s=traffic.output_tokens * full_s,
        slack_s=traffic.output_tokens * max(0.0, tpot_s - full_s),
        late_share=_late_share(objectives),
        prompt_load=traffic.requests_per_s * model.work_s(traffic) * traffic.local_share,
        stall_weight=1 / max(room, _LEAST_ROOM),
    )


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


def _late_share(objectives: Objectives) -> float:
    return (1 - objectives.attainment) / 2


def _sigmas(objectives: Objectives) -> float:
    return NormalDist().inv_cdf(1 - _late_share(objectives))


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
