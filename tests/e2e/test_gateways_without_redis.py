"""Three gateway processes that share through Redis, which is killed under load and comes back."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from baton.up_config import DEMO_MODEL

pytestmark = pytest.mark.slow
NUM_GATEWAYS, NUM_CLIENTS, NUM_ANSWERS, NUM_TOKENS = 3, 6, 20, 24


async def complete(url: str, number: int) -> str:
    """A whole streamed answer over a connection of its own, so that the kernel picks a gateway."""
    prompt = [5 + (7 * number + i) % 3000 for i in range(300)]
    body = {"model": "llama-3.1-8b@h200", "prompt": prompt, "max_tokens": NUM_TOKENS}
    body |= {"ignore_eos": True, "temperature": 0.0}
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == NUM_TOKENS
    text: str = answer.json()["choices"][0]["text"]
    return text


async def until_shared_state_is(url: str, value: float) -> None:
    """Until every gateway process says so."""
    deadline_s = time.monotonic() + 60
    async with httpx.AsyncClient(timeout=10) as client:
        while True:
            lines = (await client.get(f"{url}/metrics")).text.splitlines()
            found = [line for line in lines if line.startswith("baton_shared_state_up{")]
            if [float(line.rsplit(" ", 1)[1]) for line in found] == NUM_GATEWAYS * [value]:
                return
            assert time.monotonic() < deadline_s, found
            await asyncio.sleep(0.1)


async def test_no_request_is_lost_while_redis_is_gone(
    start_cluster: Callable[..., Any], redis_server: Any
) -> None:
    flags = ("--gateways", str(NUM_GATEWAYS), "--router-redis", redis_server.url)
    profile = ("--profile", "llama-3.1-8b@h200")
    cluster = start_cluster(DEMO_MODEL, *profile, *flags, prefill=2, decode=2)
    await until_shared_state_is(cluster.url, 1.0)
    answers: dict[tuple[int, int], str] = {}

    async def client(index: int) -> None:
        for number in range(NUM_ANSWERS):
            answers[index, number] = await complete(cluster.url, number)

    load = asyncio.gather(*(client(index) for index in range(NUM_CLIENTS)))
    while len(answers) < NUM_CLIENTS and not load.done():
        await asyncio.sleep(0.05)
    redis_server.stop()
    assert not load.done(), "Redis died under load"
    await until_shared_state_is(cluster.url, 0.0)
    await complete(cluster.url, NUM_ANSWERS)
    await asyncio.to_thread(redis_server.start)
    await load
    for number in range(NUM_ANSWERS):
        assert len({answers[index, number] for index in range(NUM_CLIENTS)}) == 1
    await until_shared_state_is(cluster.url, 1.0)
    await cluster.wait_idle()
    await asyncio.to_thread(cluster.stop)
