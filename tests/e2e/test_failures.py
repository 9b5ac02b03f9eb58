"""Workers die or freeze under a stream; the client's stream stays complete and identical."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest

from wire.messages import GenerateRequest, Role

NUM_TOKENS = 600
LEFT_WITHIN_S = 5.0
COMPUTES_S = 0.02  # of processor time: a prefill worker is in the middle of a long prompt


@pytest.fixture
async def cluster(
    model_directory: Callable[..., Any], start_cluster: Callable[..., Any]
) -> AsyncIterator[Any]:
    started = await asyncio.to_thread(start_cluster, model_directory("qwen3"))
    yield started
    await asyncio.to_thread(started.stop)


class Strike:
    """Sends a signal to the workers of a role once, when a stream has `after` tokens."""

    def __init__(self, cluster: Any, role: Role, number: int, after: int) -> None:
        self._pids = [worker.info.pid for worker in cluster.workers(role)]
        self._number = number
        self._after = after
        self.struck_s: float | None = None

    def __call__(self, num_tokens: int) -> None:
        if self.struck_s is None and num_tokens >= self._after:
            self.now()

    def now(self) -> None:
        self.struck_s = time.monotonic()
        for pid in self._pids:
            os.kill(pid, self._number)

    def cpu_s(self) -> float:
        """Processor time that the workers have used."""
        times = [psutil.Process(pid).cpu_times() for pid in self._pids]
        return sum(spent.user + spent.system for spent in times)

    def wake(self) -> None:
        for pid in self._pids:
            if os.path.exists(f"/proc/{pid}"):
                os.kill(pid, signal.SIGCONT)


class Gaps:
    """The longest time between two deltas of a stream."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()
        self.longest_s = 0.0

    def __call__(self, num_tokens: int) -> None:
        now_s = time.monotonic()
        self.longest_s = max(self.longest_s, now_s - self._last_s)
        self._last_s = now_s


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_the_last_decode_worker_is_lost_in_mid_stream(
    number: int,
    cluster: Any,
    connect: Callable[..., Any],
    reference: Callable[..., list[int]],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
    collect: Callable[..., Any],
) -> None:
    router = await connect(cluster)
    prompt = prompt_of(300, 5)
    strike = await asyncio.to_thread(Strike, cluster, Role.DECODE, number, 30)
    gaps = Gaps()

    def on_tokens(num_tokens: int) -> None:
        gaps(num_tokens)
        strike(num_tokens)

    tokens, trace = await collect(router, greedy_request("r", prompt, NUM_TOKENS), on_tokens)
    strike.wake()
    assert strike.struck_s is not None
    assert trace.attempts >= 2
    assert tokens == reference("qwen3", prompt, NUM_TOKENS)
    assert gaps.longest_s < LEFT_WITHIN_S
    await cluster.wait_idle()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_the_last_prefill_worker_is_lost_in_mid_prompt(
    number: int,
    cluster: Any,
    connect: Callable[..., Any],
    reference: Callable[..., list[int]],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
    collect: Callable[..., Any],
) -> None:
    router = await connect(cluster)
    prompt = prompt_of(4000, 6)
    strike = await asyncio.to_thread(Strike, cluster, Role.PREFILL, number, 1 << 30)
    arrived: list[int] = []
    used_s = strike.cpu_s()
    request = asyncio.create_task(collect(router, greedy_request("r", prompt, 50), arrived.append))
    started_s = time.monotonic()
    while strike.cpu_s() - used_s < COMPUTES_S:
        await asyncio.sleep(0)
    strike.now()
    assert not arrived, "the prompt was read before the signal"
    tokens, _ = await request
    elapsed_s = time.monotonic() - started_s
    strike.wake()
    assert tokens == reference("qwen3", prompt, 50)
    assert elapsed_s < LEFT_WITHIN_S + 10
    await cluster.wait_idle()


async def test_a_killed_pair_comes_back_and_the_stream_goes_on(
    cluster: Any,
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
) -> None:
    router = await connect(cluster)
    decode = await asyncio.to_thread(Strike, cluster, Role.DECODE, signal.SIGKILL, 30)
    prefill = await asyncio.to_thread(Strike, cluster, Role.PREFILL, signal.SIGKILL, 30)

    def on_tokens(num_tokens: int) -> None:
        decode(num_tokens)
        prefill(num_tokens)

    await ask_exactly(router, [prompt_of(200, 8)], NUM_TOKENS, on_tokens)
    await cluster.wait_idle()


async def test_a_worker_that_is_told_to_end_finishes_its_streams_first(
    cluster: Any,
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
) -> None:
    router = await connect(cluster)
    strike = await asyncio.to_thread(Strike, cluster, Role.DECODE, signal.SIGTERM, 30)
    [trace] = await ask_exactly(router, [prompt_of(300, 11)], NUM_TOKENS, strike)
    assert strike.struck_s is not None
    assert trace.attempts == 1, "the stream moved, although its worker had time to finish it"
    await cluster.wait_idle()


@pytest.mark.parametrize("stage", ["placed", "first token", "decoding"])
async def test_a_cancelled_request_leaves_nothing_behind(
    stage: str,
    cluster: Any,
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
) -> None:
    router = await connect(cluster)
    stream = router.generate(greedy_request("r", prompt_of(2000, 9), 2000))
    if stage == "placed":
        pending = asyncio.ensure_future(anext(stream))
        for _ in range(20):
            await asyncio.sleep(0)
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
    else:
        wanted = 1 if stage == "first token" else 40
        count = 0
        async for delta in stream:
            count += len(delta.tokens)
            if count >= wanted:
                break
    await stream.aclose()
    await cluster.wait_idle()
