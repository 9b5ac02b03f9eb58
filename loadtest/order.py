"""What the user asked to be sent, as text and numbers, and the workload that it means."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.arrivals import GAP_PROCESSES, GapProcess, RateSegment, spiked
from loadtest.body import PromptStyle
from loadtest.dataset import dataset_workload, read_dataset
from loadtest.errors import LoadtestError
from loadtest.lengths import parse_lengths
from loadtest.plan import Workload
from loadtest.quantities import parse_duration_s, parse_rate
from loadtest.synthetic import Phase, phase_arrivals, synthetic_workload
from loadtest.trace import TraceScaling, read_trace, trace_workload

_SPIKE = re.compile(r"([\d.]+)@(\w[\w.]*)\+(\w[\w.]*)")
_PHASE_KEYS = ("rate", "input", "output", "prefix", "groups", "turns", "think", "name")


@dataclass(frozen=True, slots=True)
class Order:
    """The workload's flags. Lengths, rates and times are in the grammars of their modules.

    At most one of trace and dataset is given. phases: each `30s rate=5 input=2000 output=20`, what
    is left out is as in the order itself.
    """

    trace: Path | None = None
    dataset: Path | None = None
    rate: str = "1"
    duration: str = ""
    requests: int = 0
    arrivals: str = "poisson"
    burstiness: float = 1.0
    spike: str = ""
    phases: tuple[str, ...] = ()
    input_tokens: str = "512"
    output_tokens: str = "64"
    prefix_tokens: int = 0
    prefix_groups: int = 1
    turns: int = 1
    think: str = "0"
    multi_turn: bool = False
    scaling: TraceScaling = TraceScaling()
    seed: int = 0

    def default_style(self) -> PromptStyle:
        """Conversations need the server's answers back, which only messages carry exactly."""
        is_chat = self.dataset is not None or self.turns > 1
        return PromptStyle.CHAT if is_chat else PromptStyle.IDS


def plan_workload(order: Order) -> Workload:
    """Raises LoadtestError for anything in the order or its files that cannot be used."""
    if order.trace is not None and order.dataset is not None:
        raise LoadtestError("a trace and a dataset cannot be sent together")
    if order.trace is not None:
        return _of_trace(order, order.trace)
    gaps = _gaps(order)
    phases = [_phase(order, text, place) for place, text in enumerate(order.phases)]
    phases = phases or [_only_phase(order)]
    if order.dataset is None:
        return synthetic_workload(phases, gaps, order.seed, order.requests)
    rows = read_dataset(order.dataset)
    times_s = phase_arrivals(phases, gaps, order.seed)
    duration_s = sum(phase.duration_s for phase in phases)
    if order.requests:
        times_s = times_s[: order.requests]
        duration_s = float(times_s[-1])
    return dataset_workload(
        rows,
        times_s,
        duration_s,
        parse_lengths(order.output_tokens),
        multi_turn=order.multi_turn,
        think_s=parse_duration_s(order.think),
        seed=order.seed,
        name=order.dataset.name,
    )


def _of_trace(order: Order, path: Path) -> Workload:
    rows = read_trace(path, order.scaling.block_tokens)
    scaling = order.scaling
    if order.duration:
        length_s = parse_duration_s(order.duration) * scaling.time_scale
        end_s = max(scaling.start_s, rows[0].timestamp / 1000) + length_s
        scaling = replace(scaling, end_s=min(scaling.end_s, end_s))
    workload = trace_workload(rows, scaling, path.name, order.seed)
    if order.requests and order.requests < workload.num_requests:
        kept = workload.conversations[: order.requests]
        notes = (*workload.notes, f"the first {order.requests} requests of these")
        return Workload(kept, kept[-1].at_s, workload.description, notes)
    return workload


def _gaps(order: Order) -> GapProcess:
    if order.arrivals not in GAP_PROCESSES:
        known = ", ".join(GAP_PROCESSES)
        raise LoadtestError(f"the arrivals {order.arrivals!r} are none of {known}")
    if not 0 < order.burstiness < float("inf"):
        raise LoadtestError("the burstiness must be positive")
    return GapProcess(order.arrivals, order.burstiness)


def _only_phase(order: Order) -> Phase:
    start, end = parse_rate(order.rate)
    if order.duration:
        duration_s = parse_duration_s(order.duration)
    elif order.requests:
        duration_s = 2 * order.requests / (start + end) * 2 + 10  # more than enough; cut by count
    else:
        duration_s = 30.0
    return _make_phase(order, "", RateSegment(duration_s, start, end))


def _make_phase(order: Order, name: str, segment: RateSegment) -> Phase:
    if segment.duration_s <= 0:
        raise LoadtestError("the duration must be positive")
    if min(order.turns, order.prefix_groups) < 1 or order.prefix_tokens < 0:
        raise LoadtestError("turns and prefix groups must be at least 1, prefix tokens at least 0")
    return Phase(
        name=name,
        rates=tuple(_with_spike(order.spike, segment)),
        input_tokens=parse_lengths(order.input_tokens),
        output_tokens=parse_lengths(order.output_tokens),
        prefix_tokens=order.prefix_tokens,
        prefix_groups=order.prefix_groups,
        turns=order.turns,
        think_s=parse_duration_s(order.think),
    )


def _with_spike(text: str, segment: RateSegment) -> list[RateSegment]:
    """`50@30s+10s`: 50 requests a second from second 30 on, for 10 seconds."""
    if not text:
        return [segment]
    match = _SPIKE.fullmatch(text.strip())
    if match is None:
        raise LoadtestError(f"{text!r} is not a spike such as 50@30s+10s")
    rate, _ = parse_rate(match[1])
    return spiked(segment, rate, parse_duration_s(match[2]), parse_duration_s(match[3]))


def _phase(order: Order, text: str, place: int) -> Phase:
    duration, *settings = text.split() or [""]
    given: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in _PHASE_KEYS:
            known = ", ".join(_PHASE_KEYS)
            raise LoadtestError(f"{setting!r} in the phase {text!r}: KEY=VALUE of {known}")
        given[key] = value
    start, end = parse_rate(given.get("rate", order.rate))
    own = replace(
        order,
        spike="",
        input_tokens=given.get("input", order.input_tokens),
        output_tokens=given.get("output", order.output_tokens),
        prefix_tokens=_whole(given, "prefix", order.prefix_tokens),
        prefix_groups=_whole(given, "groups", order.prefix_groups),
        turns=_whole(given, "turns", order.turns),
        think=given.get("think", order.think),
    )
    segment = RateSegment(parse_duration_s(duration), start, end)
    return _make_phase(own, given.get("name", f"phase {place + 1}"), segment)


def _whole(given: dict[str, str], key: str, default: int) -> int:
    value = given.get(key, str(default))
    if not value.isdigit():
        raise LoadtestError(f"{key}={value} of a phase is not a whole number")
    return int(value)
