"""What the generator alone sustains, against a server in C that costs next to nothing.

`.venv/bin/python tests/loadtest/bench_generator.py [SECONDS]` prints a table; it needs cc.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baton.host_facts import host_facts
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

SOURCE = Path(__file__).parent / "sse_server.c"


@dataclass(frozen=True)
class Case:
    """rate in requests/s; num_events of each answer, gap_ms apart; num_input token ids."""

    name: str
    rate: float
    num_events: int
    gap_ms: float
    num_input: int
    num_processes: int = 1


CASES = (
    Case("short answers", 2000, 8, 10, 64),
    Case("two processes", 4000, 8, 10, 64, 2),
    Case("long answers, paced", 200, 250, 10, 64),
    Case("long answers, paced", 400, 250, 10, 64),
    Case("long answers, paced", 400, 250, 10, 64, 2),
    Case("long answers, bursts", 400, 250, 0, 64),
    Case("long prompts", 200, 8, 10, 8000),
)


def main(seconds: float, which: slice = slice(None)) -> None:
    facts = host_facts()
    print(f"{facts.processor}, {facts.num_usable_cores} cores, Python {facts.python}")
    print("| case | processes | req/s | events/s | core | lag p50 | lag p99 | lag max | failed |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        server = Path(folder) / "sse_server"
        compiler = shutil.which("cc")
        assert compiler is not None, "the server needs a C compiler"
        subprocess.run([compiler, "-O2", "-o", server, SOURCE], check=True)
        for case in CASES[which]:
            print(asyncio.run(measure(server, case, seconds)), flush=True)


async def measure(server: Path, case: Case, seconds: float) -> str:
    """One row of the table."""
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
    return row(case, records, [one.busy_share for one in fleet.finished])


def row(case: Case, records: list[RequestRecord], busy: list[float]) -> str:
    everything = columns_of(records, parse_slos([]))
    lag_ms = everything.lag_s * 1000
    p50, p99 = np.percentile(lag_ms, [50, 99])
    ramp_s = case.num_events * case.gap_ms / 1000  # until as many answers end as begin
    end_s = float(everything.intended_s.max())
    steady_s = end_s - ramp_s
    came_s, _ = everything.token_times()
    num_events = ((came_s >= ramp_s) & (came_s < end_s)).sum()
    num_requests = len(everything.intended_within(ramp_s, end_s))
    failed = (~everything.is_ok).sum()
    cells = (
        case.name,
        str(case.num_processes),
        f"{num_requests / steady_s:,.0f}",
        f"{num_events / steady_s:,.0f}",
        f"{sum(busy):.2f}",
        f"{p50:.2f} ms",
        f"{p99:.2f} ms",
        f"{lag_ms.max():.1f} ms",
        str(failed),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
