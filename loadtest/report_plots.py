"""Which plots a report has: distributions, the run over time, attainment against rate."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from loadtest.plot import Mark, Plot, Series
from loadtest.result import Bucket, RunResult, ServerSample
from loadtest.scrape import role_counts
from loadtest.slo import parse_slo

_CDF_POINTS = 240
_TIMELINE_WIDTH, _TIMELINE_HEIGHT = 1140, 190

Named = tuple[str, RunResult]


def distribution_plots(runs: Sequence[Named]) -> list[Plot]:
    """The share of requests (gaps, for ITL) that took at most so long; one line a run."""
    limits = _limits(runs[0][1].facts.slo)
    named: tuple[tuple[str, str, Callable[[RunResult], Sequence[float | None]]], ...] = (
        ("ttft", "Time to first token", lambda run: run.requests.ttft_ms),
        ("tpot", "Time per output token", lambda run: run.requests.tpot_ms),
        ("itl", "Gaps between tokens", lambda run: run.itl_sample_ms),
        ("e2el", "Whole answer", lambda run: run.requests.e2el_ms),
    )
    plots = []
    for key, title, values in named:
        series = [
            Series(name, _cdf(values(run)), color=place) for place, (name, run) in enumerate(runs)
        ]
        if not any(one.points for one in series):
            continue
        marks = [Mark(limits[key], f"SLO {limits[key]:g} ms", "limit")] if key in limits else []
        plots.append(Plot(title, "ms", "share", series, marks, is_x_log=True, y_max=1.0))
    return plots


def timeline_plots(run: RunResult) -> list[Plot]:
    """The run over time, each panel with faults and changes of the pools marked."""
    buckets = run.timeline
    if len(buckets) < 2:
        return []
    width_s = buckets[1].start_s - buckets[0].start_s
    end_s = buckets[-1].start_s + width_s
    marks = [*_faults(run), *_scalings(run.server)]

    def panel(title: str, y_label: str, series: Sequence[Series]) -> Plot:
        x_range, width = (0.0, end_s), _TIMELINE_WIDTH
        return Plot(title, "s from the start", y_label, series, marks, x_range=x_range, width=width)

    def line(
        name: str, value: Callable[[Bucket], float], color: int, dashed: bool = False
    ) -> Series:
        points = [(bucket.start_s + width_s / 2, value(bucket)) for bucket in buckets]
        return Series(name, points, color=color, is_dashed=dashed)

    plots = [
        panel("Requests", "per second", [
            line("offered", lambda b: b.num_requests / width_s, 0, True),
            line("good", lambda b: b.num_good / width_s, 2),
            line("failed", lambda b: b.num_failed / width_s, 1),
        ]),
        panel("Time to first token", "ms", [
            line("p50", lambda b: _or_gap(b.ttft_p50_ms), 0),
            line("p99", lambda b: _or_gap(b.ttft_p99_ms), 1),
        ]),
        panel("Time per output token", "ms", [
            line("p50", lambda b: _or_gap(b.tpot_p50_ms), 0),
            line("p99", lambda b: _or_gap(b.tpot_p99_ms), 1),
        ]),
        panel("Output", "tokens/s", [line("tokens", lambda b: b.tokens_per_s, 3)]),
    ]  # fmt: skip
    if pools := _pool_series(run.server):
        plots.append(panel("Pools", "workers", pools))
    return plots


def attainment_plot(runs: Sequence[Named]) -> Plot | None:
    """SLO attainment against the rate: one dot a run, or of one run one dot a stretch of it."""
    if not runs[0][1].facts.slo:
        return None
    if len(runs) > 1:
        dots = sorted((run.offered_rate, run.overall.attainment) for _, run in runs)
        series = [Series("runs", dots, color=0), Series("runs", dots, kind="dots", color=0)]
    else:
        series = [Series("stretches", _stretches(runs[0][1]), kind="dots", color=0)]
    return Plot("SLO attainment against rate", "requests/s", "share that met it", series, y_max=1.0)


def _cdf(values: Sequence[float | None]) -> list[tuple[float, float]]:
    known = np.array([value for value in values if value is not None and value > 0])
    if known.size == 0:
        return []
    shares = np.linspace(0, 1, min(_CDF_POINTS, max(2, known.size)))
    return list(zip(np.quantile(known, shares).tolist(), shares.tolist(), strict=True))


def _limits(slo: str) -> dict[str, float]:
    """Of the default objective, which stands first and has no class."""
    default = next((part for part in slo.split(", ") if "=" not in part), "")
    return dict(parse_slo(default).limits_ms)


def _faults(run: RunResult) -> list[Mark]:
    return [Mark(fault.at_s, fault.what, "fault") for fault in run.faults]


def _scalings(samples: Sequence[ServerSample]) -> list[Mark]:
    """Moments at which the router saw other workers than before."""
    marks = []
    told = [(sample.at_s, role_counts(sample)) for sample in samples]
    for (_, before), (at_s, after) in pairwise([one for one in told if one[1]]):
        if before != after:
            label = ":".join(f"{after.get(role, 0):g}" for role in ("prefill", "decode"))
            marks.append(Mark(at_s, f"P:D {label}", "scaling"))
    return marks


def _pool_series(samples: Sequence[ServerSample]) -> list[Series]:
    told = [(sample.at_s, role_counts(sample)) for sample in samples]
    roles = sorted({role for _, counts in told for role in counts})
    return [
        Series(
            role,
            [(at_s, counts.get(role, 0.0)) for at_s, counts in told if counts],
            kind="step",
            color=place,
            is_dashed=place > 0,  # equal counts lie over each other
        )
        for place, role in enumerate(roles)
    ]


def _stretches(run: RunResult) -> list[tuple[float, float]]:
    """Rate and attainment of at most 30 stretches of equal length."""
    size = max(1, len(run.timeline) // 30)
    width_s = run.timeline[1].start_s - run.timeline[0].start_s if len(run.timeline) > 1 else 1.0
    dots = []
    for first in range(0, len(run.timeline), size):
        part = run.timeline[first : first + size]
        count = sum(bucket.num_requests for bucket in part)
        if count:
            good = sum(bucket.num_good for bucket in part)
            dots.append((count / (width_s * len(part)), good / count))
    return sorted(dots)


def _or_gap(value_ms: float) -> float:
    """A stretch without requests has no latency."""
    return value_ms if value_ms > 0 else float("nan")
