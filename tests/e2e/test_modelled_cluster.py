"""A cluster of modelled workers through the real processes, as `baton up --profile` starts it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from baton.up_config import DEMO_MODEL
from profiles.catalog import dump, load_profile

PROMPT = [5 + i % 4000 for i in range(2000)]


@pytest.fixture(scope="module")
def cluster(
    start_cluster: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("profile") / "slow.toml"
    text = dump(load_profile("llama-3.1-8b@h200"))
    lines = [line for line in text.splitlines() if not line.startswith(("load_s", "kv_tokens"))]
    path.write_text("\n".join([*lines, "load_s = 0.1", "kv_tokens = 20000"]))
    started = start_cluster(DEMO_MODEL, "--profile", str(path))
    yield started
    started.stop()


def complete(cluster: Any, prompt: list[int]) -> tuple[str, float]:
    body = {"model": "slow", "prompt": prompt, "max_tokens": 12, "ignore_eos": True}
    started_s = time.monotonic()
    answer = httpx.post(f"{cluster.url}/v1/completions", json=body, timeout=30).json()
    return answer["choices"][0]["text"], time.monotonic() - started_s


async def test_requests_take_the_profiles_time_and_the_prefix_cache_is_real(cluster: Any) -> None:
    profile = load_profile("llama-3.1-8b@h200")
    text, cold_s = complete(cluster, PROMPT)
    again, warm_s = complete(cluster, PROMPT)
    assert text == again and text.strip()
    prefill_s, decode_s = profile.chunk_s(0, len(PROMPT)), 11 * profile.step_s
    assert cold_s >= prefill_s + decode_s
    assert decode_s <= warm_s < cold_s
    await cluster.wait_idle()


def test_a_profile_that_does_not_exist_is_said_before_anything_starts(
    start_cluster: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="is no profile"):
        start_cluster(DEMO_MODEL, "--profile", "llama-9@h900")
