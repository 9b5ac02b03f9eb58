"""From the text that a gateway exports to a reading: rates, length moments, latency ratios."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from control_plane.observe.reading import (
    ANSWERS,
    COUNTERS,
    OUTPUT,
    RATIO,
    WAITING,
    Reading,
    ReadingError,
    traffic_of,
)
from control_plane.observe.window import CounterWindow, Counts, quantile
from control_plane.planner.types import PoolFigures, Traffic

MAX_WINDOW_S = 120.0
_ENOUGH_ANSWERS = 100


class TrafficWindow:
    """Readings of the last window_s of expositions; up to MAX_WINDOW_S while few answers come."""

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
        seconds, growth = self._window.growth(self._window_s, ANSWERS, _ENOUGH_ANSWERS)
        short_s, short = self._window.growth(self._window_s)
        rates = {name: growth.get(name, 0.0) / seconds if seconds else 0.0 for name in COUNTERS}
        self._traffic = traffic_of(rates, int(waiting), 0.0, self._traffic)
        output = short.get(OUTPUT, 0.0) / short_s if short_s else 0.0
        return Reading(self._traffic, _figures(short, "ttft"), _figures(short, "tpot"), output)


def _parse(source: str, body: bytes) -> tuple[dict[str, float], float]:
    """The counters that matter, ratio buckets as objective|le, and the waiting requests."""
    counts: dict[str, float] = {}
    waiting = 0.0
    try:
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                if sample.name in COUNTERS:
                    counts[sample.name] = counts.get(sample.name, 0.0) + sample.value
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
    return PoolFigures(quantile(0.9, buckets), attained)
