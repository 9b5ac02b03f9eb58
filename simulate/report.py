"""The result of a simulation in the load test's form, so that both are read and compared alike."""

from collections.abc import Sequence

import numpy as np

from loadtest.columns import Columns, columns_of
from loadtest.faults import outcomes as fault_outcomes
from loadtest.plan import Workload
from loadtest.result import Distribution, RunFacts, RunResult, ServerSample
from loadtest.slo import SloSet
from loadtest.summary import (
    Window,
    itl_sample_ms,
    request_columns,
    summarize,
    summarize_stages,
    timeline,
)
from simulate.pools import PoolSample
from simulate.run import Outcome
from simulate.spec import ClusterSpec


def result_of(
    spec: ClusterSpec,
    workload: Workload,
    outcome: Outcome,
    slos: SloSet,
    *,
    warmup_s: float = 0.0,
    label: str = "",
    command: str = "",
) -> RunResult:
    """warmup_s: left out at the start. label: of the policy."""
    everything = columns_of(outcome.records, slos)
    last_s = max((record.intended_s for record in outcome.records), default=0.0)
    end_s = float(np.nextafter(max(workload.duration_s, last_s), np.inf))
    window = Window(min(warmup_s, end_s), end_s)
    inside = everything.intended_within(window.start_s, window.end_s)
    names = sorted({record.class_name for record in everything.records if record.class_name})
    return RunResult(
        facts=RunFacts(
            date="",
            url=f"simulation of {spec.split} workers, {label or spec.policy}",
            model=_hardware(spec),
            style="simulated",
            workload=workload.description,
            notes=workload.notes,
            seed=spec.seed,
            slo=str(slos),
            num_planned=workload.num_requests,
            duration_s=outcome.end_s,
            window_s=(window.start_s, window.end_s),
            num_processes=0,
            max_lag_ms=0.0,
            command=command,
        ),
        invalid=(),
        warnings=_warnings(outcome),
        is_partial=False,
        num_sent=len(outcome.records),
        num_unsent=0,
        lag=Distribution(),
        busiest_share=0.0,
        num_connections=0,
        overall=summarize(everything, window),
        by_class={name: summarize(_of_class(everything, name), window) for name in names},
        stages=summarize_stages(inside),
        timeline=timeline(everything, outcome.end_s),
        requests=request_columns(inside),
        itl_sample_ms=itl_sample_ms(inside),
        server=_pool_samples(outcome.pools, outcome.end_s),
        faults=fault_outcomes(outcome.faults, everything, window.start_s),
    )


def _hardware(spec: ClusterSpec) -> str:
    names = dict.fromkeys((spec.prefill_profile.name, spec.decode_profile.name))
    return " and ".join(names)


def _warnings(outcome: Outcome) -> tuple[str, ...]:
    if not outcome.num_preemptions:
        return ()
    return (f"{outcome.num_preemptions} sequences were preempted for lack of KV memory",)


def _of_class(everything: Columns, name: str) -> Columns:
    mask = np.array([record.class_name == name for record in everything.records], dtype=np.bool_)
    return everything.where(mask)


def _pool_samples(pools: Sequence[PoolSample], end_s: float) -> tuple[ServerSample, ...]:
    """The pools as a live router's metrics tell them, at each change and at the end."""
    if not pools:
        return ()
    times_s = [sample.at_s for sample in pools]
    points = [*zip(times_s, pools, strict=True), (max(end_s, times_s[-1]), pools[-1])]
    return tuple(
        ServerSample(
            at_s,
            {
                'baton_router_workers{role="decode"}': float(sample.num_decode),
                'baton_router_workers{role="prefill"}': float(sample.num_prefill),
            },
        )
        for at_s, sample in points
    )
