"""What the load generator alone sustains, against a server in C that costs next to nothing."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from baton.bench.row import Row
from loadtest.body import BodyOptions, PromptStyle
from loadtest.columns import columns_of
from loadtest.fetch import get
from loadtest.fleet import Fleet
from loadtest.order import Order, plan_workload
from loadtest.record import RequestRecord
from loadtest.slo import parse_slos
from loadtest.target import Target
from runtime.clock import SystemClock
from runtime.lifecycle import free_port

_SOURCE = Path(__file__).parent / "sse_server.c"
_SECONDS = 6.0
_MAX_LAG_MS = 5.0


@dataclass(frozen=True, slots=True)
class Case:
    """rate in requests/s; num_events of each answer, gap_ms apart; num_input token ids.

    bound: of what the row's name says, on one core's worth of processes; 0: none.
    """

    name: str
    rate: float
    num_events: int
    gap_ms: float
    num_input: int
    num_processes: int = 1
    requests_bound: float = 0.0
    events_bound: float = 0.0


CASES = (
    Case("short", 2000, 8, 10, 64, requests_bound=2000),
    Case("short.2processes", 4000, 8, 10, 64, 2),
    Case("paced", 400, 250, 10, 64, events_bound=100_000),
    Case("paced.2processes", 400, 250, 10, 64, 2, events_bound=100_000),
    Case("bursts", 400, 250, 0, 64, events_bound=100_000),
    Case("prompts", 200, 8, 10, 8000),
)


@dataclass(frozen=True, slots=True)
class Sustained:
    """Of the steady part, in which as many answers end as begin. cores: of all processes."""

    requests_per_s: float
    events_per_s: float
    cores: float
    lag_p99_ms: float
    num_failed: int


def run(repeats: int, cases: tuple[Case, ...] = CASES, seconds: float = _SECONDS) -> list[Row]:
    """Each case's rates, cores and p99 lag; medians. Without a C compiler there is no row."""
    with _server() as server:
        if server is None:
            return []
        rows = []
        for case in cases:
            runs = [asyncio.run(measure(server, case, seconds)) for _ in range(repeats)]
            rows += _rows(case, runs)
        return rows


def _rows(case: Case, runs: list[Sustained]) -> list[Row]:
    requests = median(run.requests_per_s for run in runs)
    events = median(run.events_per_s for run in runs)
    cores = median(run.cores for run in runs)
    lag_ms = median(run.lag_p99_ms for run in runs)
    failed = float(max(run.num_failed for run in runs))
    name = f"loadtest.{case.name}"
    least_requests = case.requests_bound or case.rate
    least_events = case.events_bound or case.rate * case.num_events
    return [
        Row(
            f"{name}.requests", requests, "1/s", "bound", least_requests, requests / least_requests
        ),
        Row(f"{name}.events", events, "1/s", "bound", least_events, events / least_events),
        Row(f"{name}.cores", cores, "cores", "bound", 1.0, cores),
        Row(f"{name}.lag.p99", lag_ms, "ms", "bound", _MAX_LAG_MS, lag_ms / _MAX_LAG_MS),
        Row(f"{name}.failed", failed, "requests", "bound", 0.0, failed),
    ]


@contextmanager
def _server() -> Iterator[Path | None]:
    compiler = shutil.which("cc")
    with tempfile.TemporaryDirectory() as folder:
        server = Path(folder) / "sse_server"
        if compiler is not None:
            subprocess.run([compiler, "-O2", "-o", server, _SOURCE], check=True)
        yield server if compiler is not None else None


async def measure(server: Path, case: Case, seconds: float) -> Sustained:
    """One run of the generators against a server of its own."""
    port, clock = free_port(), SystemClock()
    words = (str(server), str(port), str(case.num_events), str(case.gap_ms))
    process = await asyncio.create_subprocess_exec(*words)
    target = Target("127.0.0.1", port)
    fleet = Fleet(case.num_processes, clock)
    records: list[RequestRecord] = []
    order = Order(
        rate=str(case.rate),
        duration=f"{seconds}s",
        input_tokens=str(case.num_input),
        output_tokens=str(case.num_events),
    )
    try:
        while (await get(target, "/v1/models", clock, 5.0)).status != 200:
            pass
        body = BodyOptions(model="demo", style=PromptStyle.IDS)
        await fleet.prepare(plan_workload(order).conversations, body, target, 60.0)
        fleet.begin()
        await fleet.run(records.extend)
    finally:
        await fleet.close()
        process.kill()
        await process.wait()
    return _sustained(case, records, sum(one.busy_share for one in fleet.finished))


def _sustained(case: Case, records: list[RequestRecord], cores: float) -> Sustained:
    everything = columns_of(records, parse_slos([]))
    ramp_s = case.num_events * case.gap_ms / 1000
    end_s = float(everything.intended_s.max())
    steady_s = end_s - ramp_s
    came_s = np.concatenate([times_s for times_s, _ in everything.token_times()])
    return Sustained(
        len(everything.intended_within(ramp_s, end_s)) / steady_s,
        float(((came_s >= ramp_s) & (came_s < end_s)).sum()) / steady_s,
        cores,
        float(np.percentile(everything.lag_s, 99)) * 1000,
        int((~everything.is_ok).sum()),
    )
