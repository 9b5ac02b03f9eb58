"""A whole run on a terminal: asks the server, plans, loads, shows, and gives the result."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from loadtest.assemble import RunContext, assemble
from loadtest.faults import FaultInjector
from loadtest.live import LiveStats
from loadtest.record import RequestRecord
from loadtest.result import RunResult, ServerSample
from loadtest.run import RunSpec, Watcher, record_run
from loadtest.terminal import RunView
from runtime.clock import Clock
from runtime.lifecycle import stop_event

_SHOW_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run's result, and what it was made of."""

    result: RunResult
    records: Sequence[RequestRecord]


async def run_on_terminal(
    spec: RunSpec,
    context: RunContext,
    clock: Clock,
    console: Console | None,
    injector: FaultInjector | None = None,
) -> Outcome:
    """Until the load is done or a signal comes; then too there is a result.

    console: where the run is shown as it goes; None: nowhere.
    """
    interrupt = stop_event()
    starts_s = [conversation.at_s for conversation in spec.workload.conversations]
    stats = LiveStats(spec.workload.num_requests, starts_s, spec.slos)
    watcher = _StatsWatcher(stats)
    showing = asyncio.create_task(_show(watcher, clock, console))
    try:
        recording = await record_run(spec, clock, interrupt, watcher, injector)
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
    return Outcome(assemble(spec, recording, context), recording.records)


class _StatsWatcher(Watcher):
    def __init__(self, stats: LiveStats) -> None:
        self.stats = stats
        self.start: float | None = None

    def started(self, start: float) -> None:
        self.start = start

    def ended(self, records: Sequence[RequestRecord]) -> None:
        self.stats.add(records)

    def sampled(self, sample: ServerSample) -> None:
        self.stats.add_sample(sample)


async def _show(watcher: _StatsWatcher, clock: Clock, console: Console | None) -> None:
    if console is None:
        return
    with RunView(console) as view:
        while True:
            await asyncio.sleep(_SHOW_EVERY_S)
            if watcher.start is not None:
                view.show(watcher.stats.figures(clock.now() - watcher.start))
