"""Workers whose KV pools are small: what they evict comes back from their hosts, for every user."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from wire.messages import GenerateRequest, Role


@pytest.mark.slow
async def test_prompts_hit_again_after_the_device_has_evicted_them(
    model_directory: Callable[..., Any],
    start_cluster: Callable[..., Any],
    connect: Callable[..., Any],
    reference: Callable[..., list[int]],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
    collect: Callable[..., Any],
) -> None:
    flags = ("--kv-memory", "512KiB", "--host-kv-memory", "16MiB", "--max-model-len", "512")
    cluster = await asyncio.to_thread(start_cluster, model_directory("qwen3"), *flags)
    router = await connect(cluster)
    prompts = [prompt_of(330 + 16 * index, index) for index in range(8)]
    first = [await collect(router, greedy_request(f"a{i}", p, 20)) for i, p in enumerate(prompts)]
    again = [await collect(router, greedy_request(f"b{i}", p, 20)) for i, p in enumerate(prompts)]
    for prompt, (tokens, _), (later, _) in zip(prompts, first, again, strict=True):
        assert tokens == later == reference("qwen3", prompt, 20)
    assert [trace.num_cached_tokens for _, trace in first] == [0] * 8
    assert [trace.num_cached_tokens for _, trace in again] == [
        (len(prompt) - 1) // 16 * 16 for prompt in prompts
    ]
    workers = await asyncio.to_thread(cluster.workers, Role.PREFILL)
    host = workers[0].report.host
    assert host.num_restored_tokens > 8 * 200 and host.num_used_blocks > 0
    await cluster.wait_idle()
    await asyncio.to_thread(cluster.stop)
