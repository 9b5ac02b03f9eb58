"""Measures what the router adds: `python tests/router/bench_router.py` prints one JSON object.

Workers run in a process of their own and send one frame a step with the tokens of all their
legs. The baseline of a latency is the same worker over a bare session, without a router.
"""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import uvloop

sys.path.append(str(Path(__file__).parent))

from scripted_cluster import FINGERPRINT, ScriptedControl, until

from router.candidates import Candidate, ClusterView
from router.config import RouterConfig
from router.placement import place
from router.policies.named import POLICIES
from router.policies.policy import RequestFacts
from router.prefix_map import PrefixMap
from router.router import Router
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire import rpc
from wire.block_hash import block_hashes
from wire.cluster import WorkerInfo
from wire.kv import FabricAddress, KVHandle
from wire.messages import (
    BlockSnapshot,
    CancelLeg,
    FinishReason,
    GenerateRequest,
    Hello,
    LegAccepted,
    LegFinished,
    LegPublished,
    LegTokens,
    LegTransferred,
    Role,
    SamplingParams,
    StartLeg,
    WorkerFrame,
    WorkerReport,
)


class BatchWorker:
    """All legs advance one token a step; one frame carries a step. Steps take `step_s`."""

    def __init__(self, role: Role, step_s: float) -> None:
        self._role, self._step_s = role, step_s
        self._handle = KVHandle(b"x" * 16, "p", 1, FabricAddress("127.0.0.1", 1), 16, 30.0)

    async def session(self, frames) -> AsyncIterator[WorkerFrame]:
        legs: dict[int, list] = {}
        fresh: list = []
        wake = asyncio.Event()
        reader = asyncio.create_task(self._read(frames, legs, fresh, wake))
        yield WorkerFrame(snapshot=BlockSnapshot(0), report=self._report(0))
        reported_s, step = time.monotonic(), 0
        try:
            while True:
                if not legs and not fresh:
                    wake.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(wake.wait(), 0.25)
                step += 1
                events = self._step(legs, fresh)
                now_s = time.monotonic()
                report = None
                if now_s - reported_s > 0.25:
                    report, reported_s = self._report(step, len(legs)), now_s
                if events or report:
                    yield WorkerFrame(tuple(events), report)
                await asyncio.sleep(self._step_s)
        finally:
            reader.cancel()

    def _step(self, legs, fresh) -> list:
        events: list = []
        for leg in fresh:
            legs[leg.leg_id] = [len(leg.output_tokens), leg]
            events.append(LegAccepted(leg.leg_id, 0))
            if leg.prefill_only:
                events.append(LegPublished(leg.leg_id, self._handle))
            elif leg.handle is not None:
                events.append(LegTransferred(leg.leg_id, 1, 0.0, 0.0, "shm"))
        fresh.clear()
        for leg_id, state in list(legs.items()):
            index, leg = state
            events.append(LegTokens(leg_id, index, (index % 1000,)))
            state[0] += 1
            is_last = state[0] >= leg.request.sampling.max_tokens
            if leg.prefill_only or is_last:
                reason = FinishReason.LENGTH if is_last else FinishReason.PREFILLED
                events.append(LegFinished(leg_id, reason))
                del legs[leg_id]
        return events

    async def _read(self, frames, legs, fresh, wake) -> None:
        async for frame in frames:
            if isinstance(frame, StartLeg):
                fresh.append(frame)
                wake.set()
            elif isinstance(frame, CancelLeg):
                legs.pop(frame.leg_id, None)

    def _report(self, step: int, num_running: int = 0) -> WorkerReport:
        return WorkerReport(
            self._role, step, num_running=num_running, num_blocks=100_000, num_free_blocks=100_000
        )


def serve(pipe, step_s: float) -> None:
    async def run() -> None:
        ports, servers = [], []
        for role in (Role.PREFILL, Role.DECODE):
            server = rpc.build_server()
            rpc.add_worker_service(server, BatchWorker(role, step_s))
            ports.append(rpc.bind(server, "127.0.0.1", 0))
            await server.start()
            servers.append(server)
        pipe.send(ports)
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await asyncio.gather(*(server.stop(None) for server in servers))

    uvloop.run(run())


def make_request(start: int, num_tokens: int, max_tokens: int) -> GenerateRequest:
    prompt = tuple(range(start, start + num_tokens))
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    return GenerateRequest(f"r{start}", prompt, sampling, tuple(block_hashes(prompt)))


class Cluster:
    def __init__(self, step_s: float) -> None:
        self._pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve, args=(other, step_s))

    async def __aenter__(self):
        self._process.start()
        self.ports = self._pipe.recv()
        self._control = ScriptedControl()
        await self._control.start()
        for name, role, port in zip("pd", (Role.PREFILL, Role.DECODE), self.ports, strict=True):
            address = f"127.0.0.1:{port}"
            info = WorkerInfo(
                name, 1, role, address, FabricAddress("127.0.0.1", 1), FINGERPRINT, 9999, 100_000
            )
            self._control.list_worker(info)
        config = RouterConfig(
            f"127.0.0.1:{self._control.port}", "bench", local_prefill_max_tokens=64
        )
        self.router = Router(config, SystemClock(), Metrics(GATEWAY_METRICS))
        await self.router.start()
        await until(lambda: [w.state for w in self.router.snapshot().workers] == ["live"] * 2)
        return self

    async def __aexit__(self, *exc) -> None:
        await self.router.stop()
        await self._control.kill()
        self._pipe.send("stop")
        self._process.join()


async def run_one(router: Router, request: GenerateRequest) -> tuple[float, float]:
    """Seconds to the first token and to the end."""
    start_s, first_s = time.perf_counter(), 0.0
    async for delta in router.generate(request):
        if delta.tokens and not first_s:
            first_s = time.perf_counter() - start_s
    return first_s, time.perf_counter() - start_s


async def bare_latencies(port: int, num_requests: int) -> list[float]:
    """First-token times of whole legs on one worker over a session without a router."""
    outbox: asyncio.Queue = asyncio.Queue()
    outbox.put_nowait(Hello("bare"))

    async def outgoing():
        while (frame := await outbox.get()) is not None:
            yield frame

    channel = rpc.open_channel(f"127.0.0.1:{port}")
    frames = rpc.open_session(channel, outgoing())
    await anext(frames)
    times = []
    for i in range(num_requests):
        start_s = time.perf_counter()
        outbox.put_nowait(StartLeg(i + 1, make_request(i * 50, 32, 1)))
        async for frame in frames:
            if any(isinstance(event, LegFinished) for event in frame.events):
                break
        times.append(time.perf_counter() - start_s)
    outbox.put_nowait(None)
    await frames.aclose()
    await channel.close(None)
    return times


async def measure_bare_cost(concurrency: int, num_tokens: int, max_tokens: int, total: int):
    """CPU of whole legs over one session without a router: what gRPC and the codec take."""
    async with Cluster(0.0) as cluster:
        outbox: asyncio.Queue = asyncio.Queue()
        outbox.put_nowait(Hello("bare"))

        async def outgoing():
            while (frame := await outbox.get()) is not None:
                yield frame

        channel = rpc.open_channel(f"127.0.0.1:{cluster.ports[1]}")
        frames = rpc.open_session(channel, outgoing())
        await anext(frames)
        legs = [StartLeg(i + 1, make_request(i * 7, num_tokens, max_tokens)) for i in range(total)]
        waiting = iter(legs)
        cpu_s, num_done = time.process_time(), 0
        for _ in range(concurrency):
            outbox.put_nowait(next(waiting))
        async for frame in frames:
            for event in frame.events:
                if isinstance(event, LegFinished):
                    num_done += 1
                    if (leg := next(waiting, None)) is not None:
                        outbox.put_nowait(leg)
            if num_done == total:
                break
        cpu_s = time.process_time() - cpu_s
        outbox.put_nowait(None)
        await frames.aclose()
        await channel.close(None)
    return {
        "cpu_per_request_us": round(1e6 * cpu_s / total, 1),
        "cpu_per_token_us": round(1e6 * cpu_s / total / max_tokens, 2),
    }


def quantiles_ms(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(1e3 * statistics.median(ordered), 3),
        "p99": round(1e3 * ordered[int(0.99 * (len(ordered) - 1))], 3),
    }


async def measure_latency() -> dict[str, object]:
    async with Cluster(0.0) as cluster:
        router = cluster.router
        for i in range(50):
            await run_one(router, make_request(i, 400, 3))
        local = [(await run_one(router, make_request(i * 50, 32, 1)))[0] for i in range(500)]
        remote = [(await run_one(router, make_request(i * 50, 400, 3)))[0] for i in range(500)]
        bare = await bare_latencies(cluster.ports[1], 500)
        again = [(await run_one(router, make_request(i * 50, 32, 1)))[0] for i in range(500)]
    added_s = statistics.median(local + again) - statistics.median(bare)
    return {
        "ttft_bare_session_ms": quantiles_ms(bare),
        "ttft_one_worker_ms": quantiles_ms(local + again),
        "ttft_remote_pair_ms": quantiles_ms(remote),
        "added_per_request_p50_ms": round(1e3 * added_s, 3),
    }


async def measure_cost(concurrency: int, num_tokens: int, max_tokens: int, total: int, step_s):
    async with Cluster(step_s) as cluster:
        numbers = itertools.count()

        async def client() -> None:
            while (number := next(numbers)) < total:
                await run_one(cluster.router, requests[number])

        requests = [make_request(i * 7, num_tokens, max_tokens) for i in range(total)]
        await run_one(cluster.router, make_request(1, num_tokens, max_tokens))
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return {
        "requests_per_s": round(total / wall_s),
        "tokens_per_s": round(total * max_tokens / wall_s),
        "cpu_per_request_us": round(1e6 * cpu_s / total, 1),
        "cpu_per_token_us": round(1e6 * cpu_s / total / max_tokens, 2),
    }


def measure_placement(num_workers: int, num_tokens: int) -> dict[str, float]:
    rng = Random(1)
    prefixes = PrefixMap(1 << 18)
    hashes = tuple(block_hashes(range(num_tokens)))
    pools: dict[Role, list[Candidate]] = {Role.PREFILL: [], Role.DECODE: []}
    for i in range(num_workers):
        role = Role.PREFILL if i % 2 else Role.DECODE
        prefixes.add_worker(f"w{i}")
        held = hashes[: rng.randrange(len(hashes))]
        prefixes.load_snapshot(f"w{i}", BlockSnapshot(0, held))
        pools[role].append(Candidate(f"w{i}", 1, role, 0, rng.randrange(9), 0, 1000))
    view = ClusterView(tuple(pools[Role.PREFILL]), tuple(pools[Role.DECODE]))

    def timed_us(run) -> float:
        rounds = 300
        start_s = time.perf_counter()
        for _ in range(rounds):
            run()
        return round(1e6 * (time.perf_counter() - start_s) / rounds, 1)

    match = prefixes.match(hashes)
    facts = RequestFacts(num_tokens, 100, 0, match.held, match.confirmed)
    return {
        "match_us": timed_us(lambda: prefixes.match(hashes)),
        "place_us": timed_us(lambda: place(facts, view, POLICIES["uncached_tokens"], rng, 64)),
        "speculate_us": timed_us(lambda: prefixes.speculate("w1", hashes, 1.0)),
    }


def main() -> None:
    result = {
        "loop": "uvloop",
        "latency_concurrency_1": uvloop.run(measure_latency()),
        "bare_400_in_8_out_64_concurrent": uvloop.run(measure_bare_cost(64, 400, 8, 2000)),
        "bare_32_in_256_out_64_streams": uvloop.run(measure_bare_cost(64, 32, 256, 512)),
        "remote_400_in_8_out_64_concurrent": uvloop.run(measure_cost(64, 400, 8, 4000, 0.0)),
        "burst_32_in_256_out_64_streams": uvloop.run(measure_cost(64, 32, 256, 512, 0.0)),
        "paced_32_in_256_out_64_streams_3ms": uvloop.run(measure_cost(64, 32, 256, 256, 0.003)),
        "placement_64_workers_4096_tokens": measure_placement(64, 4096),
        "placement_2_workers_400_tokens": measure_placement(2, 400),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
