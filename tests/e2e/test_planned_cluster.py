"""The planner acts on a whole cluster: `baton up --plan act` under a load that needs a flip."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from baton.up_config import DEMO_MODEL
from profiles.catalog import dump, load_profile
from wire.messages import Role

PLANNER = """
[planner]
tick_s = 0.5
can_scale = false
flip_cooldown_s = 1
objectives = {{ttft_s = 1.0, tpot_s = 0.05, attainment = 0.97}}
hardware = [{{name = "default", profile = "{profile}"}}]
"""
RATE_PER_S = 10
DEADLINE_S = 150.0
NUM_TOKENS = 12

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(start_cluster: Callable[..., Any], tmp_path: Path) -> Iterator[Any]:
    """One prefill and three decode workers whose prompts take 0.15 s for 2,000 tokens."""
    profile, planner = tmp_path / "slow.toml", tmp_path / "planner.toml"
    lines = [
        line
        for line in dump(load_profile("llama-3.1-8b@l40s")).splitlines()
        if not line.startswith(("load_s", "kv_tokens"))
    ]
    profile.write_text("\n".join([*lines, "load_s = 0.1", "kv_tokens = 40000"]))
    planner.write_text(PLANNER.format(profile=profile))
    flags = ("--profile", str(profile), "--plan", "act", "--planner-file", str(planner))
    started = start_cluster(DEMO_MODEL, *flags, prefill=1, decode=3)
    yield started
    started.stop()


async def test_long_prompts_turn_a_decode_worker_and_no_request_is_lost(cluster: Any) -> None:
    begun_s, sending = time.monotonic(), []
    async with httpx.AsyncClient(timeout=60) as client:
        flipped_at = None
        while flipped_at is None or len(sending) < flipped_at + 2 * RATE_PER_S:
            assert time.monotonic() - begun_s < DEADLINE_S, "no worker was flipped"
            sending.append(asyncio.create_task(complete(client, cluster.url, len(sending))))
            if flipped_at is None and len(sending) % RATE_PER_S == 0:
                prefill = await asyncio.to_thread(cluster.workers, Role.PREFILL)
                flipped_at = len(sending) if len(prefill) > 1 else None
            # the load's own pace, also where sending takes long
            await asyncio.sleep(max(0.0, begun_s + len(sending) / RATE_PER_S - time.monotonic()))
        counts = await asyncio.gather(*sending)
    assert set(counts) == {NUM_TOKENS}
    await cluster.wait_idle()


async def complete(client: httpx.AsyncClient, url: str, number: int) -> int:
    """Gives how many tokens came for a prompt of 2,000 that nobody has sent before."""
    prompt = [number + 5, *(5 + (number * 7 + i) % 4000 for i in range(1999))]
    body = {"model": "slow", "prompt": prompt, "max_tokens": NUM_TOKENS, "ignore_eos": True}
    answer = await client.post(f"{url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["completion_tokens"])
