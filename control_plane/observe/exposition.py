"""From the text that a gateway exports to a reading: rates, length moments, latency ratios."""

import math
from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from control_plane.observe.reading import (
    ACCEPTED,
    ANSWERS,
    BEGUN,
    CACHED,
    CONTEXT,
    COUNTERS,
    GOOD,
    LOCAL,
    OBJECTIVES,
    OUTPUT,
    PAIRS,
    RATIO,
    REFUSED,
    SENT,
    SQUARES,
    UNCACHED,
    WAITING,
    Reading,
    ReadingError,
    traffic_of,
)
from control_plane.observe.window import CounterWindow, Counts, quantile
from control_plane.planner.types import PoolFigures, Traffic

MAX_WINDOW_S = 300.0
_LEAST_S = 5.0
_LATENCY_S = 60.0  # too few requests in less: chance alone would miss an objective now and then


class TrafficWindow:
    """Readings of expositions. Latencies are of the last minute, what was sent of the last
    window_s. Rates and lengths are of the
    longest stretch in which they did not change, up to MAX_WINDOW_S: long and calm on steady load,
    short right after a shift."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._window = CounterWindow(MAX_WINDOW_S)
        self._traffic: Traffic | None = None

    def reading(self, at_s: float, expositions: Mapping[str, bytes]) -> Reading:
        """expositions: by gateway. Raises ReadingError for what is no exposition."""
        counts, waiting = {}, 0.0
        for source, body in expositions.items():
            counts[source], gauge = _parse(source, body)
            waiting += gauge
        self._window.add(at_s, counts)
        least_s = min(_LEAST_S, self._window_s)
        rates: dict[str, float] = {}
        for lead, names, variance in _GROUPS:
            seconds, growth = self._window.steady(lead, variance, least_s)
            rates |= {name: growth.get(name, 0.0) / seconds if seconds else 0.0 for name in names}
        self._traffic = traffic_of(rates, int(waiting), 0.0, self._traffic)
        seconds, growth = self._window.growth(self._window_s)
        sent = growth.get(SENT, 0.0) / seconds if seconds else 0.0
        # A router alone counts no token as it goes by: nobody knows then.
        output = sent if sent > 0 else math.nan
        seconds, growth = self._window.growth(_LATENCY_S)
        return Reading(
            self._traffic,
            _figures(growth, "ttft"),
            _figures(growth, "tpot"),
            output,
            growth.get(GOOD, 0.0) / seconds if seconds else math.nan,
            growth.get(REFUSED, 0.0),
        )


def _squares(growth: Counts) -> float:
    """Of prompts: the sum of u^2 is the variance of a random number of them."""
    return growth.get(SQUARES, 0.0)


def _answers(growth: Counts) -> float:
    """Of answers, as if their lengths were exponential."""
    count = growth.get(ANSWERS, 0.0)
    return 2 * growth.get(OUTPUT, 0.0) ** 2 / count if count else 0.0


# What is looked at for a change, the counters that are read over its stretch, and its variance.
_GROUPS: tuple[tuple[str, tuple[str, ...], Callable[[Counts], float]], ...] = (
    (ACCEPTED, (ACCEPTED,), lambda growth: growth.get(ACCEPTED, 0.0)),
    (UNCACHED, (BEGUN, UNCACHED, LOCAL, SQUARES, PAIRS, CACHED), _squares),
    (OUTPUT, (ANSWERS, OUTPUT, CONTEXT, *OBJECTIVES), _answers),
)


def _parse(source: str, body: bytes) -> tuple[dict[str, float], float]:
    """The counters that matter, ratio buckets as objective|le, and the waiting requests."""
    counts: dict[str, float] = {}
    waiting = 0.0
    try:
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                if sample.name in COUNTERS or sample.name == SENT:
                    counts[sample.name] = counts.get(sample.name, 0.0) + sample.value
                elif sample.name == REFUSED:
                    counts[REFUSED] = counts.get(REFUSED, 0.0) + sample.value
                elif sample.name == GOOD and sample.labels.get("met") == "both":
                    counts[GOOD] = counts.get(GOOD, 0.0) + sample.value
                elif sample.name == RATIO and sample.labels.get("kind") == "measured":
                    counts[f"{sample.labels['objective']}|{sample.labels['le']}"] = sample.value
                elif sample.name == WAITING:
                    waiting += sample.value
    except (ValueError, KeyError) as error:
        raise ReadingError(f"{source} gave no metrics: {error}") from error
    return counts, waiting


def _figures(growth: Counts, objective: str) -> PoolFigures:
    buckets = {
        float(name.partition("|")[2]): value
        for name, value in growth.items()
        if name.startswith(f"{objective}|")
    }
    total = buckets.get(float("inf"), 0.0)
    attained = buckets.get(1.0, 0.0) / total if total else None
    return PoolFigures(quantile(0.9, buckets), attained, num_answers=total)
