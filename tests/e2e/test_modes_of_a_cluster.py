"""An operator changes the mode of a whole cluster under load: gateways follow, no token is lost."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from baton.up_config import DEMO_MODEL
from profiles.catalog import dump, load_profile

PLANNER = """
[planner]
tick_s = 0.5
can_scale = false
can_flip = false
"""
MODES = ("disaggregated", "aggregated", "hybrid", "disaggregated")
RATE_PER_S = 10
NUM_PROMPTS = 7
NUM_TOKENS = 12
DEADLINE_S = 60.0

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(start_cluster: Callable[..., Any], tmp_path: Path) -> Iterator[Any]:
    """Two prefill and two decode workers whose prompts take 0.05 s for 500 tokens."""
    profile, planner = tmp_path / "slow.toml", tmp_path / "planner.toml"
    lines = [
        line
        for line in dump(load_profile("llama-3.1-8b@l40s")).splitlines()
        if not line.startswith("load_s")
    ]
    profile.write_text("\n".join([*lines, "load_s = 0.1"]))
    planner.write_text(PLANNER)
    flags = ("--profile", str(profile), "--plan", "act", "--planner-file", str(planner))
    started = start_cluster(DEMO_MODEL, *flags, prefill=2, decode=2)
    yield started
    started.stop()


class Operator:
    def __init__(self, cluster: Any) -> None:
        headers = {"Authorization": f"Bearer {cluster.token}"}
        url = f"http://127.0.0.1:{cluster.operator_port}/api/v1"
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=30)

    async def set_mode(self, mode: str) -> None:
        config = (await self._client.get("/config")).json()
        answer = await self._client.put("/config", json={**config, "mode": mode})
        assert answer.status_code == 200, answer.text

    async def following(self) -> str:
        return str((await self._client.get("/status")).json()["planner"]["following"])

    async def close(self) -> None:
        await self._client.aclose()


class Load:
    """A steady rate of requests, each of which must give all of its prompt's tokens."""

    def __init__(self, cluster: Any) -> None:
        self._url = cluster.url
        self._client = httpx.AsyncClient(timeout=60)
        self._sending: list[asyncio.Task[None]] = []
        self._answers: dict[int, list[int]] = {}
        self.explanations: list[str] = []

    async def run(self) -> None:
        while True:
            self._sending.append(asyncio.create_task(self._one(len(self._sending))))
            await asyncio.sleep(1 / RATE_PER_S)  # the load's own pace

    async def end(self) -> int:
        await asyncio.gather(*self._sending)
        await self._client.aclose()
        return len(self._sending)

    async def _one(self, number: int) -> None:
        """A new prompt, and in every second request one that ran before in another mode."""
        kind = number if number % 2 else number % NUM_PROMPTS
        prompt = [kind + 5, *(5 + (kind * 7 + i) % 4000 for i in range(499))]
        body = {"model": "slow", "prompt": prompt, "max_tokens": NUM_TOKENS, "ignore_eos": True}
        answer = await self._client.post(
            f"{self._url}/v1/completions", json={**body, "return_token_ids": True}
        )
        assert answer.status_code == 200, answer.text
        tokens = answer.json()["choices"][0]["token_ids"]
        assert len(tokens) == NUM_TOKENS
        assert self._answers.setdefault(kind, tokens) == tokens
        trace = await self._client.get(f"{self._url}/debug/requests/{answer.json()['id']}")
        self.explanations.append(trace.json().get("explanation", ""))


async def test_gateways_follow_every_mode_under_load(cluster: Any) -> None:
    operator, load = Operator(cluster), Load(cluster)
    running = asyncio.create_task(load.run())
    try:
        for mode in MODES:
            await operator.set_mode(mode)
            await until(lambda mode=mode: is_told(operator, mode))
            seen = len(load.explanations)
            await until(lambda mode=mode, seen=seen: is_followed(load, mode, seen))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await operator.close()
    assert await load.end() > RATE_PER_S
    await cluster.wait_idle()


async def is_told(operator: Operator, mode: str) -> bool:
    return await operator.following() == mode


async def is_followed(load: Load, mode: str, seen: int) -> bool:
    """The last ten requests ran in it."""
    last = load.explanations[seen:][-10:]
    apart = [text.partition(":")[0] for text in last]
    is_other = mode == "hybrid" and not {"aggregated", "disaggregated"} & set(apart)
    return len(last) == 10 and (is_other or set(apart) == {mode})


async def until(holds: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not await holds():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
