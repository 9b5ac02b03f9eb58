"""One run: plans the load, has the generators send it, watches the server, makes the result."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loadtest.body import BodyOptions
from loadtest.faults import Fault, FaultInjector, Injected, inject_at_its_time
from loadtest.fleet import Fleet
from loadtest.plan import Workload
from loadtest.record import RequestRecord
from loadtest.result import ServerSample
from loadtest.scrape import scrape
from loadtest.shard_messages import Finished
from loadtest.slo import SloSet
from loadtest.target import Target
from runtime.clock import Clock

_SCRAPE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything a run needs to know. warmup_s, cooldown_s: what the window leaves out.

    max_lag_ms: bound on the p99 of the dispatch lag, over which the run is invalid.
    """

    target: Target
    workload: Workload
    body: BodyOptions
    slos: SloSet
    num_processes: int = 1
    timeout_s: float = 600.0
    warmup_s: float = 0.0
    cooldown_s: float = 0.0
    max_lag_ms: float = 10.0
    faults: tuple[Fault, ...] = ()
    scrapes: bool = True


@dataclass(slots=True)
class Recording:
    """What a run saw. duration_s: from the first intended start to the last end."""

    records: list[RequestRecord] = field(default_factory=list)
    samples: list[ServerSample] = field(default_factory=list)
    injected: list[Injected] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    is_partial: bool = False
    stopped_s: float = 0.0


class Watcher:
    """Is told of a run as it goes; this one does nothing."""

    def started(self, start: float) -> None:
        """start: the clock's time of zero in the run."""

    def ended(self, records: Sequence[RequestRecord]) -> None:
        """Requests that ended."""

    def sampled(self, sample: ServerSample) -> None:
        """The server's metrics."""


async def record_run(
    spec: RunSpec,
    clock: Clock,
    interrupt: asyncio.Event,
    watcher: Watcher,
    injector: FaultInjector | None = None,
) -> Recording:
    """Sends the load and waits for its end, or for `interrupt`. Raises LoadtestError."""
    recording = Recording()
    fleet = Fleet(spec.num_processes, clock)

    def on_records(records: Sequence[RequestRecord]) -> None:
        recording.records.extend(records)
        watcher.ended(records)

    def on_sample(sample: ServerSample) -> None:
        recording.samples.append(sample)
        watcher.sampled(sample)

    try:
        conversations = spec.workload.conversations
        await fleet.prepare(conversations, spec.body, spec.target, spec.timeout_s)
        start = fleet.begin()
        watcher.started(start)
        side = _side_tasks(spec, clock, start, on_sample, injector)
        running = asyncio.create_task(fleet.run(on_records))
        try:
            await _until_done_or_stopped(running, interrupt, fleet.stop)
        finally:
            recording.stopped_s = clock.now() - start
            recording.is_partial = interrupt.is_set()
            recording.injected = await _end(side)
        recording.finished = fleet.finished
    finally:
        await fleet.close()
    return recording


async def _until_done_or_stopped(
    running: "asyncio.Task[None]", interrupt: asyncio.Event, stop: Callable[[], None]
) -> None:
    stopping = asyncio.create_task(interrupt.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            stop()
        await running
    finally:
        running.cancel()
        stopping.cancel()


def _side_tasks(
    spec: RunSpec,
    clock: Clock,
    start: float,
    on_sample: Callable[[ServerSample], None],
    injector: FaultInjector | None,
) -> list["asyncio.Task[Injected | None]"]:
    async def watch_server() -> None:
        await scrape(spec.target, clock, start, _SCRAPE_EVERY_S, on_sample)

    tasks: list[asyncio.Task[Injected | None]] = []
    if spec.scrapes:
        tasks.append(asyncio.create_task(watch_server()))
    for fault in spec.faults:
        assert injector is not None, "faults need access to the cluster"
        tasks.append(asyncio.create_task(inject_at_its_time(fault, injector, clock, start)))
    return tasks


async def _end(tasks: Sequence["asyncio.Task[Injected | None]"]) -> list[Injected]:
    """Ends what runs beside the load and gives the faults that were injected."""
    injected: list[Injected] = []
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if (one := await task) is not None:
                injected.append(one)
    return injected
