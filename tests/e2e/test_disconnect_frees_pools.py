"""A client that leaves in the middle of an answer: both pools are empty again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio

from baton.local_cluster import LocalCluster
from baton.up_config import UpConfig
from runtime.clock import SystemClock
from runtime.lifecycle import free_port
from wire.gen import generate_pb2, generate_pb2_grpc


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[LocalCluster, UpConfig]]:
    config = UpConfig(
        port=free_port(), grpc_port=free_port(), control_port=0, http_port=-1, dashboard_port=-1,
        kv_memory="32MiB", metrics_port=0,
    )  # fmt: skip
    cluster = LocalCluster(config, SystemClock(), log_dir=tmp_path)
    try:
        await cluster.start()
        await cluster.wait_ready()
        yield cluster, config
    finally:
        await cluster.stop()


async def test_a_client_that_leaves_frees_both_pools(
    cluster: tuple[LocalCluster, UpConfig],
) -> None:
    running, config = cluster
    body = {"model": "baton-demo", "prompt": "baton " * 40, "max_tokens": 3000, "stream": True}
    url = f"http://127.0.0.1:{config.port}/v1/completions"
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", url, json={**body, "ignore_eos": True}) as response,
    ):
        lines = response.aiter_lines()  # kept: without it the response would be closed
        await anext(lines)
        await until_running(running, 1)
    await until_running(running, 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{config.grpc_port}") as channel:
        call = generate_pb2_grpc.GenerateStub(channel).Generate(
            generate_pb2.CompletionCall(
                model="baton-demo", text="baton " * 40, max_tokens=3000, ignore_eos=True
            )
        )
        await call.read()
        await until_running(running, 1)
        call.cancel()
        await until_running(running, 0)


async def until_running(cluster: LocalCluster, count: int) -> None:
    """As the workers' own beats tell, a second apart; idle ones hold nothing for anybody."""
    loads = []
    try:
        async with asyncio.timeout(60):
            while True:
                loads = [worker.report for worker in (await cluster.status()).workers]
                held = sum(load.num_exports + load.num_imports + load.num_waiting for load in loads)
                if sum(load.num_running for load in loads) == count and (count or not held):
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{count} running were awaited: {loads}")
