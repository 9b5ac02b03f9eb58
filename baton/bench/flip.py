"""How long a role flip takes, and the pause that a moved answer makes, on a cluster of its own."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

from baton.bench.row import Row
from router.candidates import WorkerState
from router.config import RouterConfig
from router.output import RequestTrace
from router.router import Router
from runtime.clock import SystemClock
from runtime.lifecycle import free_port
from runtime.metrics import GATEWAY_METRICS, Metrics
from runtime.settings import child_environment
from wire import rpc
from wire.block_hash import block_hashes
from wire.cluster import ControlOrder, OrderKind, WorkerInfo
from wire.messages import GenerateRequest, Role, SamplingParams

STREAMS = 4
NUM_PROMPT = 200
NUM_TOKENS = 400
FLIP_BOUND_S = 1.0
P_TO_D_BOUND_MS = 100.0
PAUSE_BOUND_ITLS = 2.0
_WORKER = "decode-0"
_TOKEN = "bench"
_NUM_WORKERS = 3
_BEGUN_TOKENS = 20
_READY_TIMEOUT_S = 60.0
_POLL_S = 0.002


@dataclass(slots=True)
class _Figures:
    to_prefill_s: list[float] = field(default_factory=list)
    to_decode_s: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)  # in mean gaps of their own stream
    itls_s: list[float] = field(default_factory=list)
    restart_s: float = 0.0


def run(repeats: int) -> list[Row]:
    """Flips a decode worker with four running answers to prefill and back, `repeats` times.

    flip.d_to_p: until its answers run elsewhere. flip.p_to_d: until the control plane tells the
    role. Baseline of both: a worker killed until its successor is registered. migration.pause: the
    gap that the move left in a stream beyond its mean gap, in mean gaps.
    """
    figures = asyncio.run(_measure(repeats))
    restart = "a restarted worker"
    to_prefill_s, to_decode_ms = median(figures.to_prefill_s), 1e3 * median(figures.to_decode_s)
    pause, worst = median(figures.pauses), max(figures.pauses)
    itl_ms = 1e3 * median(figures.itls_s)
    return [
        _row("flip.d_to_p", to_prefill_s, "s", restart, figures.restart_s),
        _row("flip.d_to_p.bound", to_prefill_s, "s", "bound", FLIP_BOUND_S),
        _row("flip.p_to_d", to_decode_ms, "ms", restart, 1e3 * figures.restart_s),
        _row("flip.p_to_d.bound", to_decode_ms, "ms", "bound", P_TO_D_BOUND_MS),
        _row("migration.pause.p50", pause, "ITLs", "bound", PAUSE_BOUND_ITLS),
        _row("migration.pause.max", worst, "ITLs", "bound", PAUSE_BOUND_ITLS),
        _row("migration.pause.ms", pause * itl_ms, "ms", "mean ITL", itl_ms),
    ]


def _row(name: str, value: float, unit: str, baseline: str, baseline_value: float) -> Row:
    return Row(name, value, unit, baseline, baseline_value, value / baseline_value)


async def _measure(repeats: int) -> _Figures:
    figures = _Figures()
    with _cluster() as (control_port, log):
        async with _joined(control_port, log) as (router, channel):
            for repeat in range(repeats):
                await _flip_under_load(router, channel, repeat, figures)
            figures.restart_s = await _restart(channel)
    return figures


async def _flip_under_load(
    router: Router, channel: rpc.Channel, repeat: int, figures: _Figures
) -> None:
    streams = [
        _Stream(router, _request(f"{repeat}-{i}", STREAMS * repeat + i)) for i in range(STREAMS)
    ]
    while all(stream.num_deltas < _BEGUN_TOKENS for stream in streams):
        await asyncio.sleep(_POLL_S)
    figures.to_prefill_s.append(await _flip(channel, Role.PREFILL))
    figures.to_decode_s.append(await _flip(channel, Role.DECODE))
    for stream in streams:
        await stream.task
        assert stream.trace is not None
        itl_s = stream.trace.tpot_s
        figures.itls_s.append(itl_s)
        if stream.trace.moves:
            figures.pauses.append(max(0.0, stream.trace.pause_s - itl_s) / itl_s)


class _Stream:
    """One answer, timed."""

    def __init__(self, router: Router, request: GenerateRequest) -> None:
        self.gaps_s: list[float] = []
        self.trace: RequestTrace | None = None
        self.task = asyncio.create_task(self._run(router, request))

    @property
    def num_deltas(self) -> int:
        return len(self.gaps_s)

    async def _run(self, router: Router, request: GenerateRequest) -> None:
        last_s = time.perf_counter()
        async for delta in router.generate(request):
            now_s = time.perf_counter()
            self.gaps_s.append(now_s - last_s)
            last_s = now_s
            self.trace = delta.trace


def _request(name: str, seed: int) -> GenerateRequest:
    generator = Random(seed)
    prompt = tuple(generator.randrange(10, 2000) for _ in range(NUM_PROMPT))
    sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    return GenerateRequest(name, prompt, sampling, tuple(block_hashes(prompt)))


async def _flip(channel: rpc.Channel, role: Role) -> float:
    """Seconds until the control plane tells the role and no answer of the one before is left."""
    started_s = time.perf_counter()
    await rpc.send_order(channel, _WORKER, ControlOrder(OrderKind.FLIP, role), _TOKEN)
    while True:
        info = await _info(channel)
        if info.role is role and not info.flipping:
            return time.perf_counter() - started_s
        await asyncio.sleep(_POLL_S)


async def _restart(channel: rpc.Channel) -> float:
    """Seconds from a worker's death until its successor is registered."""
    old = await _info(channel)
    started_s = time.perf_counter()
    os.kill(old.pid, signal.SIGKILL)
    while True:
        status = await rpc.fetch_status(channel, _TOKEN)
        if any(w.info.worker_id == _WORKER and w.info.pid != old.pid for w in status.workers):
            return time.perf_counter() - started_s
        await asyncio.sleep(_POLL_S)


async def _info(channel: rpc.Channel) -> WorkerInfo:
    status = await rpc.fetch_status(channel, _TOKEN)
    return next(w.info for w in status.workers if w.info.worker_id == _WORKER)


@asynccontextmanager
async def _joined(control_port: int, log: Path) -> AsyncIterator[tuple[Router, rpc.Channel]]:
    """A router of this process on the cluster, and a channel to its control plane."""
    address = f"127.0.0.1:{control_port}"
    config = RouterConfig(control_address=address, client_id="bench", cluster_token=_TOKEN)
    router = Router(config, SystemClock(), Metrics(GATEWAY_METRICS))
    channel = rpc.open_channel(address)
    await router.start()
    try:
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        while _num_live(router) < _NUM_WORKERS:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the cluster did not start:\n{log.read_text()[-2000:]}")
            await asyncio.sleep(0.1)
        yield router, channel
    finally:
        await router.stop()
        await channel.close(None)


def _num_live(router: Router) -> int:
    return sum(worker.state is WorkerState.LIVE for worker in router.snapshot().workers)


@contextmanager
def _cluster() -> Iterator[tuple[int, Path]]:
    """The control port and the log of a `baton up` of its own: one prefill, two decode workers."""
    control_port = free_port()
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "baton", "up", "--port", str(free_port())]
        command += ["--control-port", str(control_port), "--kv-memory", "64MiB"]
        command += ["--prefill", "1", "--decode", str(_NUM_WORKERS - 1), "--threads", "1"]
        environment = child_environment({"BATON_STATE_DIR": state, "BATON_CLUSTER_TOKEN": _TOKEN})
        log_path = Path(state) / "bench.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield control_port, log_path
        finally:
            process.terminate()
            process.wait()
