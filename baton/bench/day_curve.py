"""Days in an hour, their rates going 1:5, under scalers and under hindsight.

A day is 24 times faster than a real one, and so is what waits in it: a worker starts in 5 s (two
minutes of the day) and cool-downs are 10 s and 30 s.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from baton.bench.peer_scalers import Pools
from baton.bench.planned_pools import Decide, PlannedRun, costs_of, planned_run
from control_plane.planner.config import Hardware, PlannerConfig
from control_plane.planner.demand import WorkerModel, decode_demand, prefill_demand
from control_plane.planner.types import Decision, Objectives, Observation, Traffic
from loadtest.arrivals import GapProcess, RateSegment
from loadtest.lengths import LengthSpec
from loadtest.plan import Workload, number
from loadtest.record import RequestRecord
from loadtest.synthetic import Phase, synthetic_workload
from loadtest.trace import TraceScaling, read_trace, trace_workload
from profiles.catalog import load_profile
from simulate.pool_costs import PoolCosts
from simulate.spec import ClusterSpec
from wire.messages import Role

_DAY_S = 3600.0
_SLOT_S = 60.0
_LEAD_S = 8.0  # start-up, which hindsight orders early enough
_FACTORS = (1.1, 1.0, 0.93, 0.86, 0.8, 0.74, 0.68, 0.62)
_OBJECTIVES = Objectives(ttft_s=5.0, tpot_s=0.1)
_MAX_TOTAL = 16


@dataclass(frozen=True, slots=True)
class Day:
    """A workload with its cluster and objectives; at most max_total workers."""

    workload: Workload
    spec: ClusterSpec
    objectives: Objectives
    max_total: int

    def run(self, decide: Decide, *, modes: bool = False) -> PlannedRun:
        """modes: which one would do better is simulated beside it."""
        objectives = self.objectives if modes else None
        return planned_run(self.spec, self.workload, decide, period_s=5.0, objectives=objectives)

    def attainment(self, run: PlannedRun) -> float:
        return run.attainment(self.is_met)

    def is_met(self, record: RequestRecord) -> bool:
        ttft_s, tpot_s = record.ttft_s, record.tpot_s
        in_time = ttft_s is not None and ttft_s <= self.objectives.ttft_s
        return in_time and (tpot_s is None or tpot_s <= self.objectives.tpot_s)


def trace_day(trace: Path) -> Day:
    """The trace's requests in their order and with their bursts, prompts cut at 8,000 tokens. The
    rate goes as 3 - 2 cos: from 1 in the night to 5 at noon."""
    base = trace_workload(read_trace(trace), TraceScaling(max_input=8000), trace.name, 1)
    hours = np.linspace(0.0, 1.0, 10_001)
    passed = np.cumsum(3 - 2 * np.cos(2 * np.pi * hours))
    begun = base.conversations
    places = np.array([conversation.at_s for conversation in begun]) / begun[-1].at_s
    times_s = np.interp(places, passed / passed[-1], hours) * _DAY_S
    starts = zip(times_s.tolist(), begun, strict=True)
    workload = Workload(
        number((at_s, conversation.turns, "") for at_s, conversation in starts),
        _DAY_S,
        f"{trace.name} over a day's curve 1:5",
    )
    return _day(workload)


def synthetic_day() -> Day:
    """Random arrivals, shorter prompts and longer answers; a morning and an evening peak."""
    rates = (1.0, 1.0, 3.0, 5.0, 4.0, 2.5, 2.5, 4.0, 5.0, 3.0, 1.5, 1.0)
    ends = (*rates[1:], rates[0])
    each_s = _DAY_S / len(rates)
    segments = tuple(RateSegment(each_s, a, b) for a, b in zip(rates, ends, strict=True))
    phase = Phase("day", segments, LengthSpec(1000, 5000), LengthSpec(300, 900))
    return _day(synthetic_workload([phase], GapProcess(), 3))


def office_day() -> Day:
    """Random arrivals of prompts of all lengths and short answers; a steep morning, a lunch dip."""
    rates = (1.0, 1.0, 1.0, 4.5, 5.0, 4.8, 2.4, 4.0, 4.5, 4.0, 1.5, 1.0)
    ends = (*rates[1:], rates[0])
    each_s = _DAY_S / len(rates)
    segments = tuple(RateSegment(each_s, a, b) for a, b in zip(rates, ends, strict=True))
    phase = Phase("office", segments, LengthSpec(200, 7600), LengthSpec(50, 350))
    return _day(synthetic_workload([phase], GapProcess(), 11))


def _day(workload: Workload) -> Day:
    profile = load_profile("llama-3.1-8b@l40s")
    spec = ClusterSpec(
        2,
        1,
        profile,
        profile,
        policy="predicted",  # the product's default
        ttft_slo_ms=1e3 * _OBJECTIVES.ttft_s,
        tpot_slo_ms=1e3 * _OBJECTIVES.tpot_s,
        pool_costs=PoolCosts(start_s=2.0),
    )
    return Day(workload, spec, _OBJECTIVES, _MAX_TOTAL)


def day_config(mode: str = "hybrid") -> PlannerConfig:
    """The planner's, its waits as short as the day is. Other modes need no prefill worker."""
    return PlannerConfig(
        mode=mode,
        min_prefill=int(mode == "hybrid"),
        objectives=_OBJECTIVES,
        max_gpus=_MAX_TOTAL,
        stale_s=60,
        hardware=(Hardware("default", start_s=5.0),),
        add_cooldown_s=10.0,
        remove_cooldown_s=30.0,
    )


def clairvoyant(day: Day, seen: Sequence[RequestRecord]) -> tuple[tuple[float, float], PlannedRun]:
    """The cheapest schedule found that attains the objective, and its factors.

    Each slot's true traffic (its prefix hits those of a run that was seen) gives sizes by the
    planner's own model, times a factor for each pool; workers start early enough and leave at
    once. The pools' factors go down in turn, as far as the simulation attains.
    """
    slots = _true_traffic(seen, day.workload.duration_s)
    best = (1.1, 1.1)
    found = _scheduled(day, slots, best)
    for role in (Role.DECODE, Role.PREFILL, Role.DECODE):
        for factor in _FACTORS:
            tried = (best[0], factor) if role is Role.DECODE else (factor, best[1])
            if factor >= (best[1] if role is Role.DECODE else best[0]):
                continue
            run = _scheduled(day, slots, tried)
            if day.attainment(run) < day.objectives.attainment:
                break
            if run.outcome.gpu_s <= found.outcome.gpu_s:
                best, found = tried, run
    return best, found


def _scheduled(day: Day, slots: Sequence[Traffic], factors: tuple[float, float]) -> PlannedRun:
    sizes = [_sizes(day, slot, factors) for slot in slots]
    return day.run(_Schedule(sizes, Pools(day.max_total)).on_tick)


@dataclass(slots=True)
class _Schedule:
    """Sizes by slot; each is there from the slot's begin on."""

    sizes: list[dict[Role, int]]
    pools: Pools

    def on_tick(self, seen: Observation) -> Decision:
        now = self.sizes[min(len(self.sizes) - 1, int(seen.at_s / _SLOT_S))]
        soon = self.sizes[min(len(self.sizes) - 1, int((seen.at_s + _LEAD_S) / _SLOT_S))]
        return self.pools.decide(seen, {role: max(now[role], soon[role]) for role in Role})


def _sizes(day: Day, traffic: Traffic, factors: tuple[float, float]) -> dict[Role, int]:
    profile = day.spec.prefill_profile
    model = WorkerModel(costs_of(day.spec), profile.kv_tokens, profile.max_num_seqs)
    prompts = prefill_demand(traffic, model, day.objectives).scaled(factors[0])
    answers = decode_demand(traffic, model, day.objectives).scaled(factors[1])
    return {Role.PREFILL: max(1, prompts.workers()), Role.DECODE: max(1, answers.workers())}


def _true_traffic(records: Sequence[RequestRecord], duration_s: float) -> list[Traffic]:
    ordered = sorted(records, key=lambda record: record.intended_s)
    starts = [record.intended_s for record in ordered]
    slots = []
    for slot in range(math.ceil(duration_s / _SLOT_S)):
        begin = bisect_right(starts, slot * _SLOT_S)
        end = bisect_right(starts, (slot + 1) * _SLOT_S)
        slots.append(_traffic_of(ordered[begin:end]))
    return slots


def _traffic_of(records: Sequence[RequestRecord]) -> Traffic:
    if not records:
        return Traffic()

    def mean(value: Callable[[RequestRecord], float]) -> float:
        return sum(map(value, records)) / len(records)

    output = mean(lambda r: r.num_output)
    held = mean(lambda r: r.num_output * (r.num_input + r.num_output / 2))
    traffic = Traffic(
        requests_per_s=len(records) / _SLOT_S,
        uncached_tokens=mean(lambda r: r.num_input - r.num_cached),
        uncached_squares=mean(lambda r: (r.num_input - r.num_cached) ** 2),
        uncached_pairs=mean(lambda r: r.num_input**2 - r.num_cached**2),
        output_tokens=output,
    )
    return replace(traffic, context_tokens=held / output if output else 0.0)
