"""`baton up` with pools of different degrees: the tokens are those of transformers, and a lost
process costs its worker, not the request."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest

from wire.messages import Role

RANK = "engine.parallel.follower"
DEADLINE_S = 60.0


def ranks_of(worker_pid: int) -> list[psutil.Process]:
    """The processes that compute a worker's model beside its own."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it, or its last child, has ended
        for child in psutil.Process(worker_pid).children():
            if RANK in child.cmdline():
                found.append(child)
    return found


@pytest.fixture
async def start(start_cluster: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """Starts a cluster in a thread; no process of it outlives the test."""
    started: list[Any] = []

    async def run(*arguments: Any, **counts: int) -> Any:
        started.append(await asyncio.to_thread(start_cluster, *arguments, **counts))
        return started[-1]

    yield run
    for cluster in started:
        workers = await asyncio.to_thread(cluster.status)
        ranks = [rank for w in workers.workers for rank in ranks_of(w.info.pid)]
        await asyncio.to_thread(cluster.stop)
        assert not any(rank.is_running() for rank in ranks)


@pytest.mark.slow
async def test_a_frozen_rank_costs_its_worker_the_stream_and_nothing_else(
    start: Callable[..., Any],
    model_directory: Callable[..., Any],
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
) -> None:
    cluster = await start(model_directory("qwen3"), "--tensor-parallel", "2", decode=2)
    router = await connect(cluster, 3)
    workers = await asyncio.to_thread(cluster.workers, Role.DECODE)
    ranks = [rank for worker in workers for rank in ranks_of(worker.info.pid)]
    frozen: list[psutil.Process] = []

    def strike(num_tokens: int) -> None:
        if num_tokens >= 30 and not frozen:
            busy = max(ranks, key=lambda rank: sum(rank.cpu_times()[:2]))
            busy.suspend()
            frozen.append(busy)

    [trace] = await ask_exactly(router, [prompt_of(300, 22)], 600, strike)
    assert trace.attempts == 2
    frozen[0].resume()
    await cluster.wait_idle()


async def test_a_lost_rank_ends_its_worker_and_the_stream_stays_the_same(
    start: Callable[..., Any],
    model_directory: Callable[..., Any],
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
) -> None:
    flags = ("--prefill-tensor-parallel", "1", "--decode-tensor-parallel", "2")
    cluster = await start(model_directory("qwen3_moe"), *flags)
    router = await connect(cluster)
    (worker,) = await asyncio.to_thread(cluster.workers, Role.DECODE)
    (rank,) = ranks_of(worker.info.pid)
    (prefill,) = await asyncio.to_thread(cluster.workers, Role.PREFILL)
    assert not ranks_of(prefill.info.pid)

    struck: list[int] = []

    def strike(num_tokens: int) -> None:
        if num_tokens >= 30 and not struck:
            struck.append(num_tokens)
            rank.send_signal(signal.SIGKILL)

    [trace] = await ask_exactly(router, [prompt_of(300, 21)], 120, strike, "qwen3_moe")
    assert trace.attempts >= 2
    deadline = time.monotonic() + DEADLINE_S
    while psutil.pid_exists(worker.info.pid):
        assert time.monotonic() < deadline, "a worker that lost a rank lives on"
        await asyncio.sleep(0.05)
    await cluster.wait_idle()


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [(2, 1), (1, 2), (2, 4), (4, 2)], ids=str)
@pytest.mark.parametrize("architecture", ["llama3", "qwen3", "qwen3_moe"])
async def test_pools_of_any_degrees_give_the_tokens_of_transformers(
    architecture: str,
    degrees: tuple[int, int],
    start: Callable[..., Any],
    model_directory: Callable[..., Any],
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
) -> None:
    prefill, decode = map(str, degrees)
    flags = ("--prefill-tensor-parallel", prefill, "--decode-tensor-parallel", decode)
    cluster = await start(model_directory(architecture), *flags)
    router = await connect(cluster)
    prompts = [prompt_of(length, 31) for length in (5, 300, 900)]
    traces = await ask_exactly(router, prompts, 60, architecture=architecture)
    assert [trace.attempts for trace in traces] == [1] * len(prompts)
    await cluster.wait_idle()
