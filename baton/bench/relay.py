"""What the relay adds to a request and to a token, beside a bare session with the same worker."""

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

import uvloop

from baton.bench.relay_workers import serve
from baton.bench.row import Row
from router.config import RouterConfig
from router.router import Router
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire import rpc
from wire.block_hash import block_hashes
from wire.cluster import (
    ClusterSnapshot,
    ClusterStatus,
    ControlOrder,
    Fingerprint,
    OrderKind,
    ServingMode,
    WorkerBeat,
    WorkerInfo,
)
from wire.errors import BatonError, ErrorCode
from wire.kv import FabricAddress
from wire.messages import (
    GenerateRequest,
    Hello,
    LegFinished,
    Role,
    SamplingParams,
    StartLeg,
    WorkerFrame,
)
from wire.session import SessionCall, open_session

_FINGERPRINT = Fingerprint("tiny", "r1", "float32", 16, "L2H2B16D8:float32")
_LATENCIES = 200
_CONCURRENCY = 64


def run(repeats: int) -> list[Row]:
    """router.relay.added: milliseconds to the first token. router.relay.request, .token: CPU us of
    this process for one request of 400 tokens over a pair, and for one token of long answers.
    """
    return uvloop.run(_measure(repeats))


async def _measure(repeats: int) -> list[Row]:
    async with _cluster() as cluster:
        routed, bare = _Routed(cluster.router), _Bare(cluster.decode_port)
        await bare.open()
        try:
            rows = [await _latency(routed, bare, repeats * _LATENCIES)]
            for name, load in (
                ("router.relay.request", _Load(400, 8, repeats * 200)),
                ("router.relay.token", _Load(32, 256, repeats * 40)),
            ):
                base_us, cost_us = await _cpu_us(bare, load), await _cpu_us(routed, load)
                if name.endswith("token"):
                    base_us, cost_us = base_us / load.num_output, cost_us / load.num_output
                rows.append(Row(name, cost_us, "us", "bare session", base_us, cost_us / base_us))
        finally:
            await bare.close()
    return rows


@dataclass(frozen=True, slots=True)
class _Load:
    num_input: int
    num_output: int
    num_requests: int


@dataclass(frozen=True, slots=True)
class _Cluster:
    router: Router
    decode_port: int


class _Routed:
    """Requests through the router."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def first_s(self, request: GenerateRequest) -> float:
        """Runs a request; seconds to its first token."""
        start_s, first_s = time.perf_counter(), 0.0
        async for delta in self._router.generate(request):
            if delta.tokens and not first_s:
                first_s = time.perf_counter() - start_s
        return first_s


class _Bare:
    """Legs over one session, with nothing between."""

    def __init__(self, port: int) -> None:
        self._address = f"127.0.0.1:{port}"
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._leg_ids = itertools.count(1)
        self._session: SessionCall

    async def open(self) -> None:
        begun = asyncio.Event()

        def frame_came(frame: WorkerFrame) -> None:
            begun.set()
            for event in frame.events:
                if isinstance(event, LegFinished):
                    self._waiting.pop(event.leg_id).set_result(None)

        self._session = await open_session(self._address, frame_came)
        self._session.send(Hello("bare"))
        await begun.wait()

    async def close(self) -> None:
        self._session.close()

    async def first_s(self, request: GenerateRequest) -> float:
        """Runs a whole leg; seconds to its end, which for one token is its first."""
        start_s, leg_id = time.perf_counter(), next(self._leg_ids)
        ended = self._waiting[leg_id] = asyncio.get_running_loop().create_future()
        self._session.send(StartLeg(leg_id, request))
        await ended
        return time.perf_counter() - start_s


class FixedControl:
    """A control plane whose workers never change."""

    def __init__(self, workers: tuple[WorkerInfo, ...]) -> None:
        self._workers = workers

    async def register(self, beats: AsyncIterator[WorkerBeat]) -> AsyncIterator[ControlOrder]:
        async for _ in beats:
            yield ControlOrder(OrderKind.ACK)

    async def watch(self, client_id: str, follows: ServingMode) -> AsyncIterator[ClusterSnapshot]:
        yield ClusterSnapshot(1, self._workers)
        await asyncio.Event().wait()

    async def status(self) -> ClusterStatus:
        return ClusterStatus(1)

    async def order(self, worker_id: str, order: ControlOrder) -> None:
        raise BatonError(ErrorCode.UNAVAILABLE, f"{worker_id} takes no orders")


@asynccontextmanager
async def _cluster() -> AsyncIterator[_Cluster]:
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=serve, args=(other,))
    process.start()
    ports = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    workers = tuple(
        worker_info(name, role, port)
        for name, role, port in zip("pd", (Role.PREFILL, Role.DECODE), ports, strict=True)
    )
    server = rpc.build_server()
    rpc.add_control_service(server, FixedControl(workers))
    control_port = rpc.bind(server, "127.0.0.1", 0)
    await server.start()
    router = Router(
        RouterConfig(f"127.0.0.1:{control_port}", "bench", local_prefill_max_tokens=64),
        SystemClock(),
        Metrics(GATEWAY_METRICS),
    )
    await router.start()
    try:
        while sum(worker.state == "live" for worker in router.snapshot().workers) < len(ports):
            await asyncio.sleep(0.01)
        yield _Cluster(router, ports[1])
    finally:
        await router.stop()
        await server.stop(None)
        pipe.send("stop")
        process.join()


def worker_info(name: str, role: Role, port: int) -> WorkerInfo:
    fabric = FabricAddress("127.0.0.1", 1)
    return WorkerInfo(name, 1, role, f"127.0.0.1:{port}", fabric, _FINGERPRINT, 9999, 100_000)


async def _latency(routed: _Routed, bare: _Bare, count: int) -> Row:
    """One request at a time, one token each, so that both ways run the same steps."""
    requests = [_request(number, 32, 1) for number in range(count)]
    for request in requests[:50]:
        await routed.first_s(request)
        await bare.first_s(request)
    pairs = [(await routed.first_s(r), await bare.first_s(r)) for r in requests]
    with_s, without_s = (median(times) for times in zip(*pairs, strict=True))
    added_ms, bare_ms = 1e3 * (with_s - without_s), 1e3 * without_s
    ratio = with_s / without_s
    return Row("router.relay.added.p50", added_ms, "ms", "bare session", bare_ms, ratio)


@asynccontextmanager
async def bare_session(port: int) -> AsyncIterator[Callable[[int], Awaitable[float]]]:
    """Gives what runs one request of one token over a bare session: from the number of its prompt's
    tokens to the seconds that it took."""
    bare, numbers = _Bare(port), itertools.count()
    await bare.open()
    try:
        yield lambda num_input: bare.first_s(_request(next(numbers), num_input, 1))
    finally:
        await bare.close()


async def _cpu_us(way: _Routed | _Bare, load: _Load) -> float:
    """CPU microseconds of this process for a request, many at once."""
    requests = [_request(n, load.num_input, load.num_output) for n in range(load.num_requests)]
    waiting = iter(requests)

    async def client() -> None:
        for request in waiting:
            await way.first_s(request)

    started_s = time.process_time()
    await asyncio.gather(*(client() for _ in range(_CONCURRENCY)))
    return 1e6 * (time.process_time() - started_s) / load.num_requests


def _request(number: int, num_input: int, num_output: int) -> GenerateRequest:
    prompt = tuple(range(7 * number, 7 * number + num_input))
    sampling = SamplingParams(temperature=0.0, max_tokens=num_output)
    return GenerateRequest(f"r{number}", prompt, sampling, tuple(block_hashes(prompt)))
