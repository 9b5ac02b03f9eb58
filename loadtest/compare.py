"""Two runs side by side, with bootstrap intervals for the ratio of each figure.

Requests that follow one another share a queue, so blocks of neighbours are resampled and not
single requests (moving-block bootstrap: Kuensch, Annals of Statistics 17, 1989).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.errors import LoadtestError
from loadtest.result import RunResult

_NUM_RESAMPLES = 1000
_CONFIDENCE = 0.95
_SAME_RATE = 1.05

Floats = npt.NDArray[np.float64]
Figure = Callable[[Floats], Floats]  # [num_resamples, num_requests] -> [num_resamples]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both runs; low and high hold the ratio B / A with 95 % confidence."""

    name: str
    a: float
    b: float
    ratio: float
    low: float
    high: float
    is_more_better: bool

    @property
    def verdict(self) -> str:
        """Whether B is better or worse, where the interval leaves no doubt."""
        if self.low <= 1 <= self.high:
            return "no difference shown"
        is_more = self.low > 1
        return "better" if is_more == self.is_more_better else "worse"


def compare(a: RunResult, b: RunResult, seed: int = 0) -> list[Comparison]:
    """Raises LoadtestError when a run has no requests, or is INVALID."""
    for name, run in (("A", a), ("B", b)):
        if run.invalid:
            raise LoadtestError(f"run {name} is INVALID: {'; '.join(run.invalid)}")
        if not run.requests.is_ok:
            raise LoadtestError(f"run {name} has no requests in its window")
    rng = np.random.default_rng([seed, 5])
    found = []
    for name, (column, figure, is_more_better) in _FIGURES.items():
        values_a, values_b = column(a), column(b)
        if not (values_a.size and values_b.size):
            continue
        samples_a = bootstrap(values_a, figure, rng)
        samples_b = bootstrap(values_b, figure, rng)
        one_a, one_b = (float(figure(values[None, :])[0]) for values in (values_a, values_b))
        if one_a <= 0 or not np.isfinite(one_b):
            continue
        tail = (1 - _CONFIDENCE) / 2 * 100
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = samples_b / samples_a
        low, high = np.nanpercentile(ratios, [tail, 100 - tail]).tolist()  # nan: 0 / 0
        found.append(Comparison(name, one_a, one_b, one_b / one_a, low, high, is_more_better))
    return found


def caution(a: RunResult, b: RunResult) -> str:
    """Why the figures of two runs may not be of the same thing; empty when they are."""
    reasons = []
    low, high = sorted((a.offered_rate, b.offered_rate))
    if high > low * _SAME_RATE:
        reasons.append(f"offered rates differ, {a.offered_rate:.3g} and {b.offered_rate:.3g} req/s")
    if a.facts.slo != b.facts.slo:
        reasons.append(f"SLOs differ, {a.facts.slo or 'none'} and {b.facts.slo or 'none'}")
    if a.facts.workload.partition(":")[0] != b.facts.workload.partition(":")[0]:
        reasons.append("workloads differ")
    if a.is_partial or b.is_partial:
        reasons.append("a run was stopped early")
    return "; ".join(reasons)


def bootstrap(
    values: Floats, figure: Figure, rng: np.random.Generator, num_resamples: int = _NUM_RESAMPLES
) -> Floats:
    """The figure of resamples made of blocks of about n^(1/3) neighbours.  # [num_resamples]"""
    size = values.size
    length = max(1, round(size ** (1 / 3)))
    num_blocks = -(-size // length)
    offsets = np.arange(length)
    results = np.empty(num_resamples)
    rows = max(1, 2_000_000 // size)  # so many at once that memory stays small
    for first in range(0, num_resamples, rows):
        count = min(rows, num_resamples - first)
        starts = rng.integers(0, max(1, size - length + 1), (count, num_blocks, 1))
        picked = (starts + offsets).reshape(count, -1)[:, :size]
        results[first : first + count] = figure(values[picked])
    return results


def _column(name: str) -> Callable[[RunResult], Floats]:
    def values(run: RunResult) -> Floats:
        """Requests without such a time are left out: errors show in the goodput."""
        listed = getattr(run.requests, name)
        return np.array([value for value in listed if value is not None], dtype=np.float64)

    return values


def _goodput(run: RunResult) -> Floats:
    """Each request's part of the goodput: its mean is the goodput itself."""
    start_s, end_s = run.facts.window_s
    good = np.array(run.requests.is_good, dtype=np.float64)
    return good * (good.size / max(end_s - start_s, 1e-9))


def _mean(values: Floats) -> Floats:
    return np.asarray(values.mean(axis=1))


def _percentile(percent: float) -> Figure:
    return lambda values: np.asarray(np.percentile(values, percent, axis=1))


_FIGURES: Mapping[str, tuple[Callable[[RunResult], Floats], Figure, bool]] = {
    "goodput, requests/s": (_goodput, _mean, True),
    "SLO attainment": (_column("is_good"), _mean, True),
    "TTFT mean, ms": (_column("ttft_ms"), _mean, False),
    "TTFT p50, ms": (_column("ttft_ms"), _percentile(50), False),
    "TTFT p99, ms": (_column("ttft_ms"), _percentile(99), False),
    "TPOT mean, ms": (_column("tpot_ms"), _mean, False),
    "TPOT p50, ms": (_column("tpot_ms"), _percentile(50), False),
    "TPOT p99, ms": (_column("tpot_ms"), _percentile(99), False),
    "E2E p50, ms": (_column("e2el_ms"), _percentile(50), False),
    "E2E p99, ms": (_column("e2el_ms"), _percentile(99), False),
    "longest stall p99, ms": (_column("stall_ms"), _percentile(99), False),
}
