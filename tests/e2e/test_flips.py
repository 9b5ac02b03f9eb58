"""Roles flip and answers move between real processes; every stream stays complete and identical."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from wire import rpc
from wire.cluster import ControlOrder, OrderKind
from wire.messages import GenerateRequest, Role, SamplingParams

TOKEN = "a-cluster-token-for-tests"  # tests/e2e/conftest.py
FLIP_S = 1.0
P_TO_D_S = 0.1
LONG = 600


@pytest.fixture(scope="module")
def cluster(
    model_directory: Callable[..., Any], start_cluster: Callable[..., Any]
) -> Any:
    return start_cluster(model_directory("qwen3"), decode=2)


class Operator:
    """Orders to the cluster's workers, and what becomes of them."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._channel = rpc.open_channel(f"127.0.0.1:{cluster.control_port}")

    async def close(self) -> None:
        await self._channel.close(None)

    async def info(self, worker_id: str) -> Any:
        status = await rpc.fetch_status(self._channel, TOKEN)
        return next(w for w in status.workers if w.info.worker_id == worker_id).info

    async def ids(self, role: Role) -> list[str]:
        status = await rpc.fetch_status(self._channel, TOKEN)
        return [w.info.worker_id for w in status.workers if w.info.role is role]

    async def flip(self, worker_id: str, role: Role) -> tuple[float, float]:
        """Seconds until the control plane knows the role, and until the old one's legs left."""
        started_s, taken_s = time.monotonic(), 0.0
        await self.order(worker_id, ControlOrder(OrderKind.FLIP, role))
        async with asyncio.timeout(20):
            while (info := await self.info(worker_id)).role is not role or info.flipping:
                if info.role is role and not taken_s:
                    taken_s = time.monotonic() - started_s
                await asyncio.sleep(0.005)
        whole_s = time.monotonic() - started_s
        return taken_s or whole_s, whole_s

    async def order(self, worker_id: str, order: ControlOrder) -> None:
        await rpc.send_order(self._channel, worker_id, order, TOKEN)


@pytest.fixture
async def operator(cluster: Any) -> AsyncIterator[Operator]:
    """An operator; each worker has its first role again when the test ends."""
    one = Operator(cluster)
    yield one
    for worker_id in await one.ids(Role.PREFILL):
        if worker_id.startswith("decode"):
            await one.flip(worker_id, Role.DECODE)
    for worker_id in await one.ids(Role.DECODE):
        if worker_id.startswith("prefill"):
            await one.flip(worker_id, Role.PREFILL)
    await cluster.wait_idle()
    await one.close()


async def test_roles_flip_there_and_back_under_load(
    cluster: Any,
    operator: Operator,
    connect: Callable[..., Any],
    reference: Callable[..., list[int]],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
    collect: Callable[..., Any],
) -> None:
    router = await connect(cluster, 3)
    prompts = [prompt_of(60 + 40 * i, i) for i in range(6)]
    streams = [
        asyncio.create_task(collect(router, greedy_request(f"r{i}", prompt, LONG)))
        for i, prompt in enumerate(prompts)
    ]
    await asyncio.sleep(0.3)
    times = []
    for role in (Role.PREFILL, Role.DECODE):
        times.append(await operator.flip("decode-0", role))
        assert not all(stream.done() for stream in streams)
    results = await asyncio.gather(*streams)
    for prompt, (tokens, trace) in zip(prompts, results, strict=True):
        assert tokens == reference("qwen3", prompt, LONG)
        assert trace.attempts == 1, "nothing was placed again"
    assert sum(trace.moves for _, trace in results) >= 1
    print(times, [(trace.moves, trace.pause_s, trace.tpot_s) for _, trace in results])
