"""From what a run saw to its result: the window, the figures, the verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from loadtest.columns import Columns, columns_of
from loadtest.faults import outcomes
from loadtest.generator import STOPPED
from loadtest.result import RunFacts, RunResult
from loadtest.run import Recording, RunSpec
from loadtest.summary import (
    Window,
    distribution,
    itl_sample_ms,
    request_columns,
    summarize,
    summarize_stages,
    timeline,
)

_BUSY_SHARE = 0.9  # of a core, above which a generator may have been what held the load back
_IDLE_SHARE = 0.5  # below which lag is not of its own making
_MAX_SAMPLES = 600


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where a run came from. max_model_len: of the server under test; 0: not known."""

    date: str = ""
    seed: int = 0
    host: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    max_model_len: int = 0


def assemble(spec: RunSpec, recording: Recording, context: RunContext) -> RunResult:
    """Requests that Ctrl-C cut off are not counted, as nobody knows how they would have ended."""
    seen = [record for record in recording.records if record.error != STOPPED]
    everything = columns_of(seen, spec.slos)
    window = steady_window(spec, recording)
    inside = everything.intended_within(window.start_s, window.end_s)
    last_end_s = float(everything.end_s.max()) if len(everything) else 0.0
    lag = distribution(everything.lag_s)
    busiest = max((one.busy_share for one in recording.finished), default=0.0)
    names = sorted({record.class_name for record in everything.records})
    return RunResult(
        facts=_facts(spec, window, last_end_s, context),
        invalid=_invalid(spec, lag.p99, busiest, len(inside)),
        warnings=_warnings(spec, busiest, context.max_model_len),
        is_partial=recording.is_partial,
        num_sent=len(recording.records),
        num_unsent=spec.workload.num_requests - len(recording.records),
        lag=lag,
        busiest_share=busiest,
        num_connections=sum(one.num_connections for one in recording.finished),
        overall=summarize(everything, window),
        by_class={name: summarize(_of_class(everything, name), window) for name in names if name},
        stages=summarize_stages(inside),
        timeline=timeline(everything, max(last_end_s, window.end_s)),
        requests=request_columns(inside),
        itl_sample_ms=itl_sample_ms(inside),
        server=tuple(recording.samples[:: math.ceil(len(recording.samples) / _MAX_SAMPLES) or 1]),
        faults=outcomes(recording.injected, everything, window.start_s),
    )


def steady_window(spec: RunSpec, recording: Recording) -> Window:
    """Warm-up and cool-down are cut from the time in which requests arrive, by time."""
    arrivals_end_s = spec.workload.duration_s
    if recording.is_partial:
        arrivals_end_s = min(arrivals_end_s, recording.stopped_s)
    conversations = spec.workload.conversations
    if any(len(conversation.turns) > 1 for conversation in conversations):
        last_s = max((record.intended_s for record in recording.records), default=0.0)
        arrivals_end_s = max(arrivals_end_s, last_s)
    end_s = arrivals_end_s - spec.cooldown_s
    if spec.cooldown_s == 0:
        end_s = math.nextafter(end_s, math.inf)  # the last arrival may stand on the end itself
    return Window(spec.warmup_s, max(end_s, spec.warmup_s))


def _of_class(everything: Columns, name: str) -> Columns:
    mask = np.array([record.class_name == name for record in everything.records], dtype=np.bool_)
    return everything.where(mask)


def _facts(spec: RunSpec, window: Window, last_end_s: float, context: RunContext) -> RunFacts:
    return RunFacts(
        date=context.date,
        url=spec.target.url,
        model=spec.body.model,
        style=spec.body.style.value,
        workload=spec.workload.description,
        notes=spec.workload.notes,
        seed=context.seed,
        slo=str(spec.slos),
        num_planned=spec.workload.num_requests,
        duration_s=last_end_s,
        window_s=(window.start_s, window.end_s),
        num_processes=spec.num_processes,
        max_lag_ms=spec.max_lag_ms,
        host=dict(context.host),
        command=context.command,
    )


def _invalid(spec: RunSpec, lag_p99_ms: float, busiest: float, num_inside: int) -> tuple[str, ...]:
    reasons = []
    if lag_p99_ms > spec.max_lag_ms:
        late = f"p99 dispatch lag {lag_p99_ms:.1f} ms is over {spec.max_lag_ms:g} ms"
        if busiest < _IDLE_SHARE:
            cause = f"it used {busiest:.0%} of a core, so other processes of this host held it up"
        else:
            cause = f"it used {busiest:.0%} of a core: give it more --processes"
        reasons.append(f"the load generator was the limit: {late}; {cause}")
    if num_inside == 0:
        reasons.append("no request was intended inside the steady window")
    return tuple(reasons)


def _warnings(spec: RunSpec, busiest: float, max_model_len: int) -> tuple[str, ...]:
    found = []
    if busiest > _BUSY_SHARE:
        found.append(f"a generator used {busiest:.0%} of a core: give it more --processes")
    if num_long := _num_too_long(spec, max_model_len):
        found.append(f"{num_long} requests are longer than the model's {max_model_len} tokens")
    return tuple(found)


def _num_too_long(spec: RunSpec, max_model_len: int) -> int:
    """First turns whose prompt and answer are more than the model takes; 0 where it is unknown."""
    if not max_model_len:
        return 0
    firsts = (conversation.turns[0] for conversation in spec.workload.conversations)
    return sum(turn.num_input + turn.num_output > max_model_len for turn in firsts)
