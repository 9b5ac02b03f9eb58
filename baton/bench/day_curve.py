"""A day of a conversation trace, its rate going 1:5, under scalers and under hindsight."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from baton.bench.peer_scalers import Pools
from baton.bench.planned_pools import Decide, PlannedRun, costs_of, planned_run
from control_plane.planner.demand import WorkerModel, decode_demand, prefill_demand
from control_plane.planner.types import Decision, Objectives, Observation, Traffic
from loadtest.plan import Workload, number
from loadtest.record import RequestRecord
from loadtest.trace import TraceScaling, read_trace, trace_workload
from profiles.catalog import load_profile
from simulate.spec import ClusterSpec
from wire.messages import Role

_SLOT_S = 60.0
_LEAD_S = 20.0  # start-up, which hindsight orders early enough
_FACTORS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.2, 1.35)


@dataclass(frozen=True, slots=True)
class Day:
    """A workload with its cluster and objectives; at most max_total workers."""

    workload: Workload
    spec: ClusterSpec
    objectives: Objectives
    max_total: int

    def run(self, decide: Decide) -> PlannedRun:
        return planned_run(self.spec, self.workload, decide, period_s=5.0)

    def attainment(self, run: PlannedRun) -> float:
        return run.attainment(self.is_met)

    def is_met(self, record: RequestRecord) -> bool:
        ttft_s, tpot_s = record.ttft_s, record.tpot_s
        in_time = ttft_s is not None and ttft_s <= self.objectives.ttft_s
        return in_time and (tpot_s is None or tpot_s <= self.objectives.tpot_s)


def day_of(trace: Path, num_requests: int, duration_s: float, objectives: Objectives) -> Day:
    """The trace's first requests in their order and with their bursts; prompts cut at 8,000 tokens,
    for a worker of one L40S. The rate goes as 3 - 2 cos: from 1 in the night to 5 at noon."""
    rows = read_trace(trace)[:num_requests]
    base = trace_workload(rows, TraceScaling(max_input=8000), trace.name, 1).conversations
    hours = np.linspace(0.0, 1.0, 10_001)
    passed = np.cumsum(3 - 2 * np.cos(2 * np.pi * hours))
    places = np.array([conversation.at_s for conversation in base]) / base[-1].at_s
    times_s = np.interp(places, passed / passed[-1], hours) * duration_s
    starts = zip(times_s.tolist(), base, strict=True)
    workload = Workload(
        number((at_s, conversation.turns, "") for at_s, conversation in starts),
        duration_s,
        f"{trace.name} over a day's curve 1:5",
    )
    profile = load_profile("llama-3.1-8b@l40s")
    spec = ClusterSpec(
        2,
        1,
        profile,
        profile,
        ttft_slo_ms=1e3 * objectives.ttft_s,
        tpot_slo_ms=1e3 * objectives.tpot_s,
    )
    return Day(workload, spec, objectives, max_total=12)


def clairvoyant(day: Day, seen: Sequence[RequestRecord]) -> tuple[float, PlannedRun]:
    """The cheapest schedule found that attains the objective, and its factor.

    Each minute's true traffic (its prefix hits those of a run that was seen) gives sizes by the
    planner's own model, times one factor; workers start early enough and leave at once. The
    smallest factor whose simulation attains is taken.
    """
    slots = _true_traffic(seen, day.workload.duration_s)
    for factor in _FACTORS:
        schedule = _Schedule([_sizes(day, slot, factor) for slot in slots], Pools(day.max_total))
        run = day.run(schedule.on_tick)
        if day.attainment(run) >= day.objectives.attainment:
            break
    return factor, run


@dataclass(slots=True)
class _Schedule:
    """Sizes by slot; each is there from the slot's begin on."""

    sizes: list[dict[Role, int]]
    pools: Pools

    def on_tick(self, seen: Observation) -> Decision:
        now = self.sizes[min(len(self.sizes) - 1, int(seen.at_s / _SLOT_S))]
        soon = self.sizes[min(len(self.sizes) - 1, int((seen.at_s + _LEAD_S) / _SLOT_S))]
        return self.pools.decide(seen, {role: max(now[role], soon[role]) for role in Role})


def _sizes(day: Day, traffic: Traffic, factor: float) -> dict[Role, int]:
    profile = day.spec.prefill_profile
    model = WorkerModel(costs_of(day.spec), profile.kv_tokens, profile.max_num_seqs)
    prompts = prefill_demand(traffic, model, day.objectives).scaled(factor)
    answers = decode_demand(traffic, model, day.objectives).scaled(factor)
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
