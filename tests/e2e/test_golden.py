"""The same answer everywhere: two pools, one engine and `transformers` agree token for token."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

NUM_TOKENS = 24
LENGTHS = (1, 2, 15, 16, 17, 33, 100, 257, 700, 2000)


@pytest.mark.parametrize(
    "architecture",
    [
        "llama2",
        "llama3",
        "mistral",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        pytest.param("deepseek_v3", marks=pytest.mark.slow),
        pytest.param("olmo2", marks=pytest.mark.slow),  # through transformers' layers
    ],
)
async def test_two_pools_answer_as_transformers_does(
    architecture: str,
    model_directory: Callable[..., Any],
    start_cluster: Callable[..., Any],
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
) -> None:
    cluster = await asyncio.to_thread(start_cluster, model_directory(architecture))
    router = await connect(cluster)
    prompts = [prompt_of(length, length) for length in LENGTHS]
    kinds = []
    for prompt in prompts:  # one after the other: every length alone in its batch
        [trace] = await ask_exactly(router, [prompt], NUM_TOKENS, architecture=architecture)
        kinds.append(trace.kind)
    assert "remote" in kinds
    longer = [prompt + prompt_of(150, 99) for prompt in prompts]  # reuses what the first round left
    await ask_exactly(router, longer, NUM_TOKENS, architecture=architecture)
    await cluster.wait_idle()
    await asyncio.to_thread(cluster.stop)


async def test_answers_stay_equal_when_blocks_run_out(
    model_directory: Callable[..., Any],
    start_cluster: Callable[..., Any],
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
) -> None:
    """Sixteen answers of 200 tokens do not fit together: decode preempts and recomputes."""
    flags = ("--kv-memory", "1MiB", "--max-model-len", "512")
    cluster = await asyncio.to_thread(start_cluster, model_directory("qwen3"), *flags)
    router = await connect(cluster)
    prompts = [prompt_of(80 + index, index) for index in range(16)]
    await ask_exactly(router, prompts, 200)
    await cluster.wait_idle()
    await asyncio.to_thread(cluster.stop)
