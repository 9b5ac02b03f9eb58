"""The run as it is going: counts and recent latencies, for the live view."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.record import RequestRecord
from loadtest.result import ServerSample
from loadtest.scrape import role_counts
from loadtest.slo import SloSet

_RECENT_S = 10.0


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """Of the last ten seconds, but for the totals. Latencies in milliseconds, p50 and p99."""

    elapsed_s: float
    num_ended: int
    num_planned: int
    num_failed: int
    num_due: int
    rate: float
    tokens_per_s: float
    goodput_share: float
    ttft_ms: tuple[float, float]
    tpot_ms: tuple[float, float]
    lag_ms: float
    pool: str
    last_error: str


class LiveStats:
    """Takes what a run reports; figures() is cheap enough for several times a second."""

    def __init__(self, num_planned: int, starts_s: Sequence[float], slos: SloSet) -> None:
        """starts_s: of the conversations, sorted."""
        self._num_planned = num_planned
        self._starts_s = np.asarray(starts_s)
        self._slos = slos
        self._recent: deque[RequestRecord] = deque()
        self._num_ended = 0
        self._num_failed = 0
        self._last_error = ""
        self._pool = ""

    def add(self, records: Sequence[RequestRecord]) -> None:
        for record in records:
            self._num_ended += 1
            if not record.is_ok:
                self._num_failed += 1
                self._last_error = record.error
        self._recent.extend(records)

    def add_sample(self, sample: ServerSample) -> None:
        counts = role_counts(sample)
        if counts:
            self._pool = f"{counts.get('prefill', 0):g}P {counts.get('decode', 0):g}D"

    def figures(self, elapsed_s: float) -> LiveFigures:
        recent = self._recent
        while recent and recent[0].end_s < elapsed_s - _RECENT_S:
            recent.popleft()
        span_s = max(min(elapsed_s, _RECENT_S), 1e-3)
        ok = [record for record in recent if record.is_ok]
        num_good = sum(self._slos.is_met(record) for record in recent)
        return LiveFigures(
            elapsed_s=elapsed_s,
            num_ended=self._num_ended,
            num_planned=self._num_planned,
            num_failed=self._num_failed,
            num_due=int(np.searchsorted(self._starts_s, elapsed_s)),
            rate=len(recent) / span_s,
            tokens_per_s=sum(record.num_output for record in ok) / span_s,
            goodput_share=num_good / len(recent) if recent else 0.0,
            ttft_ms=_p50_p99([record.ttft_s for record in ok]),
            tpot_ms=_p50_p99([record.tpot_s for record in ok]),
            lag_ms=_p50_p99([record.lag_s for record in recent])[1],
            pool=self._pool,
            last_error=self._last_error,
        )


def _p50_p99(seconds: Sequence[float | None]) -> tuple[float, float]:
    values = [value * 1000 for value in seconds if value is not None]
    if not values:
        return 0.0, 0.0
    p50, p99 = np.percentile(values, [50, 99]).tolist()
    return p50, p99
