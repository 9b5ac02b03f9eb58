"""How hard either pool is pressed, from the model and from what its own workers show."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median

from control_plane.planner.demand import (
    DecodeDemand,
    PrefillDemand,
    WorkerModel,
    decode_demand,
    late_prompts,
    late_tokens,
    prefill_demand,
)
from control_plane.planner.sight import (
    batch_pressure,
    believed,
    held_tokens,
    lateness,
    memory_pressure,
    queue_pressure,
)
from control_plane.planner.types import Objectives, Observation, Traffic, WorkerFigures
from router.predictor import StepCosts
from wire.messages import Role


@dataclass(frozen=True, slots=True)
class Growth:
    """What the rates are multiplied by at the moment that is planned for."""

    prefill: float = 1.0
    decode: float = 1.0


@dataclass(frozen=True, slots=True)
class PoolNeed:
    """One pool: its workers in units of the model worker, and what is asked of them.

    observed: pressure by queues, batches and latencies at the present size, filled: by the memory
    in use; they only raise what the model says.
    """

    role: Role
    num_workers: int
    servers: float
    demand: PrefillDemand | DecodeDemand
    observed: float
    filled: float = 0.0

    def pressure(self, change: int = 0) -> float:
        """With `change` more workers; 1 is just enough, infinite for work on nobody."""
        count = self.num_workers + change
        if count <= 0:
            return math.inf if self.demand.workers() else 0.0
        seen = max(self.observed, self.filled) * self.num_workers / count
        return max(self.demand.scaled(1 / self.speed).pressure(count), seen)

    def needed(self, room: float = 0.0) -> int:
        """Workers, of the pool's mean speed, that would carry 1 + room times what is asked."""
        by_model = self.demand.scaled((1 + room) / self.speed).workers()
        seen = max(self.observed, self.filled)
        by_sight = math.ceil(seen * (1 + room) * self.num_workers - 1e-9)
        return max(by_model, by_sight)

    @property
    def speed(self) -> float:
        return self.servers / self.num_workers if self.num_workers else 1.0


@dataclass(frozen=True, slots=True)
class Needs:
    """Both pools'. unreachable: why no number of workers meets the objectives, else empty."""

    prefill: PoolNeed
    decode: PoolNeed
    unreachable: str = ""

    def of(self, role: Role) -> PoolNeed:
        return self.prefill if role is Role.PREFILL else self.decode

    @property
    def hungry(self) -> PoolNeed:
        """The pool that is pressed more."""
        return max((self.decode, self.prefill), key=PoolNeed.pressure)

    def grown(self, growth: Growth) -> "Needs":
        """The same pools at the rates that are planned for."""
        prompts, answers = self.prefill.demand, self.decode.demand
        return replace(
            self,
            prefill=replace(self.prefill, demand=prompts.scaled(growth.prefill)),
            decode=replace(self.decode, demand=answers.scaled(growth.decode)),
        )

    def by_model(self) -> "Needs":
        """Without what is observed."""
        return replace(
            self,
            prefill=replace(self.prefill, observed=0.0),
            decode=replace(self.decode, observed=0.0, filled=0.0),
        )

    def eased(self, prefill: float, decode: float) -> "Needs":
        """With loads and memory that count by these factors: what the pools have shown to carry."""
        prompts, answers = self.prefill.demand, self.decode.demand
        return replace(
            self,
            prefill=replace(self.prefill, demand=prompts.scaled(prefill)),
            decode=replace(
                self.decode, demand=answers.scaled(decode), filled=self.decode.filled * decode
            ),
        )

    def apart(self) -> "Needs":
        """All of the prompts' work as the prefill pool's: what disaggregated serving asks."""
        prompts, answers = self.prefill.demand, self.decode.demand
        assert isinstance(prompts, PrefillDemand) and isinstance(answers, DecodeDemand)
        return replace(
            self,
            prefill=replace(
                self.prefill, demand=replace(prompts, load=prompts.load + answers.prompt_load)
            ),
            decode=replace(self.decode, demand=replace(answers, prompt_load=0.0)),
        )

    def in_one_pool(self) -> "Needs":
        """The prompts' work as the decode pool's: what aggregated serving asks. Late first tokens
        press it too."""
        prompts, answers = self.prefill.demand, self.decode.demand
        assert isinstance(prompts, PrefillDemand) and isinstance(answers, DecodeDemand)
        life_s = answers.service_s + answers.slack_s
        both = replace(
            answers,
            prompt_load=answers.prompt_load + prompts.load,
            bursts=prompts.service_s * (1 + prompts.cv2) / life_s if life_s else 0.0,
        )
        return replace(
            self,
            prefill=replace(self.prefill, demand=prompts.scaled(0), observed=0.0),
            decode=replace(
                self.decode,
                demand=both,
                observed=max(self.decode.observed, self.prefill.observed),
            ),
        )


class WorkerModels:
    """The worker that each pool is measured in: the median of its calibrated coefficients.

    seeds: costs by hardware kind, for workers that nobody has seen at work. Workers that are not
    believed teach nothing.
    """

    def __init__(self, seeds: Mapping[str, WorkerModel]) -> None:
        self._seeds = seeds

    def of_worker(self, worker: WorkerFigures) -> WorkerModel | None:
        if worker.costs is not None and not worker.complaint:
            return WorkerModel(
                worker.costs, worker.kv_tokens, worker.max_num_seqs, worker.step_tokens
            )
        return self._seeds.get(worker.hardware)

    def of_kind(self, name: str) -> WorkerModel | None:
        return self._seeds.get(name)

    def typical(self, workers: tuple[WorkerFigures, ...]) -> WorkerModel | None:
        """None when nothing is known of any of them."""
        models = [model for model in map(self.of_worker, workers) if model is not None]
        models = models or list(self._seeds.values())[:1]
        return _median(models) if models else None


def needs(
    seen: Observation,
    traffic: Traffic,
    models: WorkerModels,
    objectives: Objectives,
    latencies_count: bool,
) -> Needs | None:
    """None where no worker's costs are known. traffic: the observation's, or one supposed."""
    prefill, decode = seen.of(Role.PREFILL), seen.of(Role.DECODE)
    prefill_model = models.typical(prefill or seen.workers)
    decode_model = models.typical(decode or seen.workers)
    if prefill_model is None or decode_model is None:
        return None
    prompts = prefill_demand(traffic, prefill_model, objectives)
    answers = decode_demand(traffic, decode_model, objectives, held_tokens(decode))
    unreachable = late_prompts(traffic, prefill_model, objectives) or late_tokens(
        traffic, decode_model, objectives
    )
    queue = queue_pressure(prefill, prefill_model, prompts.slack_s)
    full = batch_pressure(decode, models.typical(believed(decode)), objectives.tpot_s)
    if latencies_count and not unreachable:
        alone = prompts.service_s / objectives.ttft_s
        queue = max(queue, lateness(seen.prefill.ratio_p90, alone))
        alone = decode_model.itl_s(1, traffic.context_tokens) / objectives.tpot_s
        full = max(full, lateness(seen.decode.ratio_p90, alone))
    return Needs(
        PoolNeed(
            Role.PREFILL,
            len(prefill),
            _servers(prefill, models, lambda model: 1 / model.service_s(traffic), prefill_model),
            prompts,
            queue,
        ),
        PoolNeed(
            Role.DECODE,
            len(decode),
            _servers(
                decode,
                models,
                lambda model: model.decode_rate(traffic.context_tokens, objectives.tpot_s),
                decode_model,
            ),
            answers,
            full,
            memory_pressure(decode),
        ),
        unreachable,
    )


def _servers(
    workers: tuple[WorkerFigures, ...],
    models: WorkerModels,
    rate: Callable[[WorkerModel], float],
    typical: WorkerModel,
) -> float:
    """The workers' rates together, in units of the typical one's."""
    unit = rate(typical)
    own = (models.of_worker(worker) for worker in workers)
    return sum(1.0 if model is None else rate(model) / unit for model in own)


def _median(models: list[WorkerModel]) -> WorkerModel:
    costs = [model.costs for model in models]
    return WorkerModel(
        StepCosts(
            median(cost.step_s for cost in costs),
            median(cost.sequence_s for cost in costs),
            median(cost.context_token_s for cost in costs),
            median(cost.prefill_step_s for cost in costs),
            median(cost.prefill_token_s for cost in costs),
            median(cost.prefill_pair_s for cost in costs),
        ),
        round(median(model.kv_tokens for model in models)),
        round(median(model.max_num_seqs for model in models)),
        median(model.step_tokens for model in models),
    )
