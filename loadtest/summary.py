"""From arrays of requests to the figures of a run."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.columns import Columns, Floats
from loadtest.result import Bucket, Distribution, GroupSummary, Requests, StageSummary

_MAX_BUCKETS = 240
_BUCKET_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
_ITL_SAMPLE = 4000  # quantiles of the gaps that are kept for the plot


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a run whose requests count, in seconds from its start."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return max(self.end_s - self.start_s, 1e-9)


def distribution(seconds: Floats | npt.NDArray[np.float32]) -> Distribution:
    """Figures in milliseconds; nan entries do not count."""
    is_told = ~np.isnan(seconds)
    values = seconds if is_told.all() else seconds[is_told]
    if values.size == 0:
        return Distribution()
    p50, p90, p95, p99 = (1000 * np.percentile(values, [50, 90, 95, 99])).tolist()
    return Distribution(
        count=int(values.size),
        mean=1000 * float(values.mean(dtype=np.float64)),
        std=1000 * float(values.std(dtype=np.float64)),
        min=1000 * float(values.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=1000 * float(values.max()),
    )


def summarize(everything: Columns, window: Window) -> GroupSummary:
    """everything: also what was sent outside the window, since it ends or is under way in it."""
    inside = everything.intended_within(window.start_s, window.end_s)
    good = inside.where(inside.is_ok)
    count, seconds = len(inside), window.length_s
    ended = everything.is_ok & _within(everything.end_s, window)
    edges = np.array([window.start_s, window.end_s])
    return GroupSummary(
        num_requests=count,
        num_ok=len(good),
        num_good=int(inside.is_good.sum()),
        attainment=float(inside.is_good.mean()) if count else 0.0,
        goodput=float(inside.is_good.sum()) / seconds,
        request_throughput=float(ended.sum()) / seconds,
        output_throughput=float(_num_tokens(everything, edges)[0]) / seconds,
        input_throughput=float(everything.num_input[ended].sum()) / seconds,
        num_input_tokens=int(good.num_input.sum()),
        num_output_tokens=int(good.num_output.sum()),
        num_cached_tokens=int(good.num_cached.sum()),
        mean_concurrency=_mean_concurrency(everything, window),
        ttft=distribution(good.ttft_s),
        tpot=distribution(good.tpot_s),
        itl=distribution(good.gaps_s()),
        e2el=distribution(good.e2e_s),
        stall=distribution(good.stall_s),
        ttft_from_send=distribution(good.ttft_s - good.lag_s),
        e2el_from_send=distribution(good.e2e_s - good.lag_s),
        errors=dict(Counter(r.error for r in inside.records if r.error).most_common(20)),
    )


def summarize_stages(inside: Columns) -> StageSummary:
    """Of the successes that Baton told about."""
    answers = inside.where(inside.is_ok)
    told = [record.stages for record in answers.records]
    decode_s = answers.tpot_s * (answers.num_output - 1)
    pairs = Counter(
        f"{stage.prefill_worker or stage.decode_worker} -> {stage.decode_worker}"
        for stage in told
        if stage.decode_worker or stage.prefill_worker
    )

    def of(name: str) -> Distribution:
        values = [getattr(stage, name) for stage in told]
        return distribution(np.array([np.nan if v is None else v for v in values], dtype=float))

    return StageSummary(
        requests_by_pair=dict(sorted(pairs.items())),
        requests_by_kind=dict(sorted(Counter(s.kind for s in told if s.kind).items())),
        queue=of("queue_s"),
        prefill=of("prefill_s"),
        transfer=of("transfer_s"),
        exposed=of("exposed_s"),
        decode=distribution(decode_s[np.array([bool(stage.kind) for stage in told], dtype=bool)]),
    )


def timeline(everything: Columns, end_s: float) -> tuple[Bucket, ...]:
    """The run in equal stretches, at most a few hundred."""
    wanted = max(end_s, 1e-9) / _MAX_BUCKETS
    width_s = next((w for w in _BUCKET_WIDTHS_S if w >= wanted), wanted)
    starts_s = np.arange(0.0, max(end_s, 0.0), width_s)
    num_tokens = _num_tokens(everything, np.append(starts_s, starts_s.size * width_s))
    buckets: list[Bucket] = []
    for start_s, came in zip(starts_s.tolist(), num_tokens.tolist(), strict=True):
        part = everything.intended_within(start_s, start_s + width_s)
        answered = part.where(part.is_ok)
        ttft, tpot = distribution(answered.ttft_s), distribution(answered.tpot_s)
        bucket = Bucket(
            start_s=start_s,
            num_requests=len(part),
            num_good=int(part.is_good.sum()),
            num_failed=int((~part.is_ok).sum()),
            tokens_per_s=came / width_s,
            ttft_p50_ms=ttft.p50,
            ttft_p99_ms=ttft.p99,
            tpot_p50_ms=tpot.p50,
            tpot_p99_ms=tpot.p99,
        )
        buckets.append(bucket)
    return tuple(buckets)


def request_columns(inside: Columns) -> Requests:
    def listed(seconds: Floats) -> list[float | None]:
        """Of successes only."""
        scaled = np.round(np.where(inside.is_ok, seconds, np.nan) * 1000, 4)
        return [None if np.isnan(value) else float(value) for value in scaled]

    return Requests(
        intended_s=np.round(inside.intended_s, 6).tolist(),
        ttft_ms=listed(inside.ttft_s),
        tpot_ms=listed(inside.tpot_s),
        e2el_ms=listed(inside.e2e_s),
        stall_ms=listed(inside.stall_s),
        is_ok=inside.is_ok.tolist(),
        is_good=inside.is_good.tolist(),
    )


def itl_sample_ms(inside: Columns) -> tuple[float, ...]:
    """Evenly spaced quantiles of all gaps, which is what a plot of their distribution needs."""
    gaps_s = inside.gaps_s()
    if gaps_s.size > _ITL_SAMPLE:
        gaps_s = np.quantile(gaps_s, np.linspace(0, 1, _ITL_SAMPLE))
    return tuple(np.round(np.sort(gaps_s) * 1000, 4).tolist())


def _num_tokens(everything: Columns, edges_s: Floats) -> Floats:
    """Tokens that came from each edge to before the next.  # [num_edges] -> [num_edges - 1]"""
    counts = np.zeros(max(0, edges_s.size - 1))
    for times_s, weights in everything.token_times():
        places = np.searchsorted(edges_s, times_s, side="right") - 1
        is_in = (places >= 0) & (places < counts.size)
        counts += np.bincount(places[is_in], weights[is_in], counts.size)
    return counts


def _mean_concurrency(everything: Columns, window: Window) -> float:
    """Requests under way, averaged over the window."""
    starts = np.maximum(everything.intended_s, window.start_s)
    ends = np.minimum(everything.end_s, window.end_s)
    return float(np.maximum(ends - starts, 0).sum()) / window.length_s


def _within(times_s: Floats, window: Window) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    return (times_s >= window.start_s) & (times_s < window.end_s)
