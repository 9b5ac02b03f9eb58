"""A client that leaves: the step that runs is the last one for it, and both pools are free then.

The processes of a cluster in one process, on the real engine, whose steps wait for the test.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

import gateway.process
import worker.process
from baton.up_config import DEMO_MODEL
from control_plane.config import ControlConfig
from control_plane.server import ControlServer
from gateway.config import GatewayConfig
from runtime import lifecycle
from runtime.clock import SystemClock
from wire.gen import generate_pb2, generate_pb2_grpc
from wire.messages import Role
from worker.build import WorkerParts, build
from worker.commands import Cancel
from worker.config import WorkerConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = "baton " * 200
CHUNK_TOKENS = 64
WAIT_S = 60.0


class HeldSteps:
    """Stands before a model: while it is closed a step that has begun waits in it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._is_open = threading.Event()
        self._is_open.set()
        self.num_begun = 0
        self.is_held = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward(self, *given: Any) -> Any:
        self.num_begun += 1
        self.is_held = not self._is_open.is_set()
        assert self._is_open.wait(WAIT_S), "nobody let the step go"
        self.is_held = False
        return self._model.forward(*given)

    def close(self) -> None:
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()


class Pool:
    """One worker, its engine's steps, and what it holds."""

    def __init__(self, parts: WorkerParts) -> None:
        """Before the worker's service takes the way to its inbox."""
        self.parts = parts
        self.num_cancels = 0  # that have come, whether or not the engine's thread took them
        self._post = parts.inbox.post
        inbox: Any = parts.inbox
        inbox.post = self._posted
        engine: Any = parts.core._engine
        self.steps = engine._model = HeldSteps(engine._model)

    @property
    def is_free(self) -> bool:
        report = self.parts.core.report()
        held = report.num_running + report.num_waiting + report.num_exports + report.num_imports
        return not held and report.num_free_blocks == report.num_blocks

    def _posted(self, command: Any) -> None:
        self._post(command)
        self.num_cancels += isinstance(command, Cancel)


async def until(condition: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


class Cluster:
    """A gateway on two ports before a pool of each role."""

    def __init__(self, pools: dict[Role, Pool], ports: tuple[int, int]) -> None:
        self.prefill, self.decode = pools[Role.PREFILL], pools[Role.DECODE]
        self.http_port, self.grpc_port = ports

    async def wait_free(self) -> None:
        await until(lambda: self.prefill.is_free and self.decode.is_free)
        for pool in (self.prefill, self.decode):
            pool.parts.core.check_integrity()


@contextlib.asynccontextmanager
async def process(coroutine: Any, stops: list[asyncio.Event]) -> AsyncIterator[None]:
    """Meanwhile it runs; a process's stop event is the one that it has asked for."""
    task = asyncio.create_task(coroutine)
    num_before = len(stops)
    await until(lambda: task.done() or len(stops) > num_before)
    stop = stops[-1]
    try:
        yield
    finally:
        stop.set()
        await task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    stops: list[asyncio.Event] = []

    def stop_event() -> asyncio.Event:
        stops.append(asyncio.Event())
        return stops[-1]

    ports = lifecycle.free_port(), lifecycle.free_port()
    control = ControlServer(ControlConfig(port=0, http_port=-1, settle_s=0.0), SystemClock())
    await control.start()
    address = f"127.0.0.1:{control.port}"
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(lifecycle, "stop_event", stop_event)
        patch.setattr(gateway.process, "stop_event", stop_event)
        async with contextlib.AsyncExitStack() as processes:
            processes.push_async_callback(control.stop)
            pools = {}
            for role in (Role.PREFILL, Role.DECODE):
                config = WorkerConfig(
                    role=role, model=str(DEMO_MODEL), served_model_name="demo", threads=1,
                    control_address=address, kv_memory="16MiB", max_batch_tokens=CHUNK_TOKENS,
                    drain_timeout_s=5.0,
                )  # fmt: skip
                parts = stack.enter_context(build(config))
                pools[role] = Pool(parts)
                running = worker.process._serve(config, parts)
                await processes.enter_async_context(process(running, stops))
            front = GatewayConfig(
                model=str(DEMO_MODEL), served_model_name="demo", control_address=address,
                port=ports[0], grpc_port=ports[1], policy="uncached_tokens", drain_s=1.0,
            )  # fmt: skip
            opened = stack.enter_context(contextlib.closing(gateway.process._open(front)))
            serving = gateway.process._serve(front, opened)
            await processes.enter_async_context(process(serving, stops))
            await ready(ports[0])
            yield Cluster(pools, ports)


async def ready(port: int) -> None:
    """Until the gateway can place on both pools."""
    pools = [f'baton_router_workers{{role="{role.value}"}} 1.0' for role in Role]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    text = (await client.get("/metrics")).text
                    if all(line in text for line in pools):
                        return
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def http_client(cluster: Cluster, prompt: str) -> AsyncIterator[None]:
    """A client that has asked, and is gone at the end."""
    body = {"model": "demo", "prompt": prompt, "max_tokens": 2000, "ignore_eos": True}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{cluster.http_port}", timeout=60
    ) as client:
        asking = asyncio.create_task(_read(client, {**body, "stream": True}))
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.wait([asking])


async def _read(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    async with client.stream("POST", "/v1/completions", json=body, timeout=WAIT_S) as response:
        async for _ in response.aiter_lines():
            pass


@contextlib.asynccontextmanager
async def grpc_client(cluster: Cluster, prompt: str) -> AsyncIterator[None]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{cluster.grpc_port}") as channel:
        call = generate_pb2_grpc.GenerateStub(channel).Generate(
            generate_pb2.CompletionCall(model="demo", text=prompt, max_tokens=2000, ignore_eos=True)
        )

        async def read() -> None:
            async for _ in call:
                pass

        reading = asyncio.create_task(read())
        try:
            yield
        finally:
            call.cancel()
            await asyncio.wait([reading])


CLIENTS = {"http": http_client, "grpc": grpc_client}


@pytest.fixture
def held(cluster: Cluster) -> Iterator[None]:
    """Whatever a test does, no step is held after it."""
    yield
    cluster.prefill.steps.open()
    cluster.decode.steps.open()


@pytest.mark.parametrize("kind", list(CLIENTS))
async def test_who_leaves_an_answer_costs_decode_the_step_that_runs_and_no_other(
    cluster: Cluster, held: None, kind: str
) -> None:
    steps = cluster.decode.steps
    num_before = steps.num_begun
    async with CLIENTS[kind](cluster, f"{kind} writes: {PROMPT}"):
        await until(lambda: steps.num_begun >= num_before + 5)
        steps.close()
        await until(lambda: steps.is_held)
        await until(lambda: cluster.prefill.is_free)
        assert not cluster.decode.is_free
        num_cancels = cluster.decode.num_cancels
    await until(lambda: cluster.decode.num_cancels > num_cancels)
    num_begun = steps.num_begun
    steps.open()
    await cluster.wait_free()
    assert steps.num_begun == num_begun


@pytest.mark.parametrize("kind", list(CLIENTS))
async def test_who_leaves_while_the_prompt_is_read_costs_prefill_the_step_that_runs(
    cluster: Cluster, held: None, kind: str
) -> None:
    steps, decode = cluster.prefill.steps, cluster.decode.steps
    steps.close()
    num_begun, num_decoded = steps.num_begun, decode.num_begun
    async with CLIENTS[kind](cluster, f"{kind} reads: {PROMPT}"):
        await until(lambda: steps.is_held)
        # The first chunk of several: decode has reserved the prompt's blocks and waits for them.
        await until(lambda: not cluster.decode.is_free)
        num_cancels = cluster.prefill.num_cancels
    await until(lambda: cluster.prefill.num_cancels > num_cancels)
    assert steps.num_begun == num_begun + 1
    steps.open()
    await cluster.wait_free()
    assert steps.num_begun == num_begun + 1
    assert decode.num_begun == num_decoded
