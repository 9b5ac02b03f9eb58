"""The same answer everywhere: two pools, one engine and `transformers` agree token for token."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from wire.messages import GenerateRequest

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
    reference: Callable[..., list[int]],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
    collect: Callable[..., Any],
) -> None:
    cluster = await asyncio.to_thread(start_cluster, model_directory(architecture))
    router = await connect(cluster)
    prompts = [prompt_of(length, length) for length in LENGTHS]
    kinds = []
    for prompt in prompts:  # one after the other: every length alone in its batch
        tokens, trace = await collect(router, greedy_request(f"a{len(prompt)}", prompt, NUM_TOKENS))
        assert tokens == reference(architecture, prompt, NUM_TOKENS), len(prompt)
        kinds.append(trace.kind)
    assert "remote" in kinds
    longer = [prompt + prompt_of(150, 99) for prompt in prompts]  # reuses what the first round left
    answers = await asyncio.gather(
        *(collect(router, greedy_request(f"b{len(p)}", p, NUM_TOKENS)) for p in longer)
    )
    for prompt, (tokens, _) in zip(longer, answers, strict=True):
        assert tokens == reference(architecture, prompt, NUM_TOKENS), len(prompt)
    await cluster.wait_idle()
    await asyncio.to_thread(cluster.stop)


async def test_answers_stay_equal_when_blocks_run_out(
    model_directory: Callable[..., Any],
    start_cluster: Callable[..., Any],
    connect: Callable[..., Any],
    reference: Callable[..., list[int]],
    prompt_of: Callable[..., tuple[int, ...]],
    greedy_request: Callable[..., GenerateRequest],
    collect: Callable[..., Any],
) -> None:
    """Sixteen answers of 200 tokens do not fit together: decode preempts and recomputes."""
    flags = ("--kv-memory", "1MiB", "--max-model-len", "512")
    cluster = await asyncio.to_thread(start_cluster, model_directory("qwen3"), *flags)
    router = await connect(cluster)
    prompts = [prompt_of(80 + index, index) for index in range(16)]
    answers = await asyncio.gather(
        *(collect(router, greedy_request(f"p{len(p)}", p, 200)) for p in prompts)
    )
    for prompt, (tokens, _) in zip(prompts, answers, strict=True):
        assert tokens == reference("qwen3", prompt, 200), len(prompt)
    await cluster.wait_idle()
    await asyncio.to_thread(cluster.stop)
