"""The server's own metrics, read beside the load."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from loadtest.fetch import get
from loadtest.result import ServerSample
from loadtest.target import Target
from runtime.clock import Clock

_PREFIXES = ("baton_", "vllm:", "sglang:", "dynamo_")
_LEFT_OUT = ("_bucket", "_created")
_COUNTERS = ("_total", "_sum", "_count")
_MAX_SERIES = 300
_TIMEOUT_S = 5.0


async def scrape(
    target: Target,
    clock: Clock,
    start: float,
    every_s: float,
    on_sample: Callable[[ServerSample], None],
) -> None:
    """Reads /metrics until cancelled; a server without it is asked once. start: the run's zero."""
    while True:
        page = await get(target, "/metrics", clock, _TIMEOUT_S)
        if page.status == 404:
            return
        if page.status == 200:
            values = parse_metrics(page.body.decode(errors="replace").splitlines())
            on_sample(ServerSample(round(clock.now() - start, 3), values))
        await asyncio.sleep(every_s)


def parse_metrics(lines: Iterable[str]) -> dict[str, float]:
    """Series of serving systems from Prometheus' text format, by name and labels.

    Buckets of histograms are left out; their sums and counts are not.
    """
    values: dict[str, float] = {}
    for line in lines:
        if not line.startswith(_PREFIXES):
            continue
        series, _, number = line.rpartition(" ")
        if series.partition("{")[0].endswith(_LEFT_OUT):
            continue
        try:
            values[series] = float(number)
        except ValueError:
            continue
        if len(values) == _MAX_SERIES:
            break
    return {series: value for series, value in values.items() if value == value}


def role_counts(sample: ServerSample) -> dict[str, float]:
    """Workers by role as Baton's router sees them; empty for other servers."""
    counts: dict[str, float] = {}
    for series, value in sample.values.items():
        name, _, labels = series.partition("{")
        if name == "baton_router_workers" and 'role="' in labels:
            counts[labels.partition('role="')[2].partition('"')[0]] = value
    return counts


def change(samples: Sequence[ServerSample]) -> dict[str, float]:
    """What the run did to each series: the growth of counters, the mean of gauges."""
    if not samples:
        return {}
    first, last = samples[0].values, samples[-1].values
    found: dict[str, float] = {}
    for series, value in last.items():
        if series.partition("{")[0].endswith(_COUNTERS):
            found[series] = value - first.get(series, 0.0)
        else:
            seen = [sample.values[series] for sample in samples if series in sample.values]
            found[series] = sum(seen) / len(seen)
    return found
