"""The gateways' figures, read from their own /metrics where no Prometheus is configured."""

import asyncio
from collections.abc import Sequence

from prometheus_client.parser import text_string_to_metric_families

from control_plane.observe.fetch import fetch
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
from runtime.clock import Clock
from runtime.log import get_logger

MAX_WINDOW_S = 120.0
_ENOUGH_ANSWERS = 100
_TIMEOUT_S = 2.0
_log = get_logger("control_plane")


class Scrape:
    """A TrafficSource. urls: every gateway's /metrics.

    window_s: over how long rates are taken; longer, up to MAX_WINDOW_S, while few requests come.
    """

    def __init__(self, urls: Sequence[str], clock: Clock, window_s: float) -> None:
        self._urls = tuple(urls)
        self._clock = clock
        self._window_s = window_s
        self._window = CounterWindow(MAX_WINDOW_S)
        self._read_at_s = -float("inf")
        self._traffic: Traffic | None = None

    async def read(self) -> Reading:
        """Raises ReadingError where no gateway answers. Some answering counts as fresh."""
        replies = await asyncio.gather(
            *(fetch(url, _TIMEOUT_S) for url in self._urls), return_exceptions=True
        )
        counts, waiting, failures = {}, 0.0, []
        for url, reply in zip(self._urls, replies, strict=True):
            if isinstance(reply, ReadingError):
                failures.append(str(reply))
            elif isinstance(reply, BaseException):
                raise reply
            else:
                counts[url], gauge = _parse(url, reply)
                waiting += gauge
        if not counts:
            raise ReadingError(failures[0] if failures else "no gateway is known")
        for failure in failures:
            _log.warning("a gateway was not read", reason=failure)
        self._read_at_s = self._clock.now()
        self._window.add(self._read_at_s, counts)
        return self._reading(int(waiting))

    async def close(self) -> None:
        """Nothing is kept open."""

    def _reading(self, num_waiting: int) -> Reading:
        seconds, growth = self._window.growth(self._window_s, ANSWERS, _ENOUGH_ANSWERS)
        short_s, short = self._window.growth(self._window_s)
        rates = {name: growth.get(name, 0.0) / seconds if seconds else 0.0 for name in COUNTERS}
        traffic = traffic_of(rates, num_waiting, 0.0, self._traffic)
        self._traffic = traffic
        output = short.get(OUTPUT, 0.0) / short_s if short_s else 0.0
        return Reading(traffic, _figures(short, "ttft"), _figures(short, "tpot"), output)


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
