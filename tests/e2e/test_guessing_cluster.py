"""Two pools whose workers guess tokens answer as `transformers` does."""

import asyncio
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "engine"))
from eagle_heads import ReferenceHead, Shape

from runtime.lifecycle import free_port

NUM_TOKENS = 80


def counted(url: str, name: str) -> float:
    with urllib.request.urlopen(url, timeout=30) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lookup", "model", "head"])
async def test_guessing_workers_answer_as_transformers_does(
    kind: str,
    model_directory: Callable[..., Any],
    start_cluster: Callable[..., Any],
    connect: Callable[..., Any],
    prompt_of: Callable[..., tuple[int, ...]],
    ask_exactly: Callable[..., Any],
    tmp_path: Path,
) -> None:
    directory = model_directory("qwen3")
    port = free_port()
    flags = ["--max-drafts", "3", "--metrics-port", str(port), "--speculate"]
    if kind == "lookup":
        flags += ["lookup"]
    elif kind == "model":
        flags += ["model", "--draft-model", str(model_directory("llama3"))]
    else:
        head = ReferenceHead(Shape(vocab=512, draft_vocab=300)).save(tmp_path / "head")
        flags += ["model", "--draft-model", str(head)]
    cluster = await asyncio.to_thread(start_cluster, directory, *flags)
    router = await connect(cluster)
    prompts = [prompt_of(20 + index, index) * (index + 1) for index in range(8)]
    traces = await ask_exactly(router, prompts, NUM_TOKENS)
    assert "remote" in {trace.kind for trace in traces}
    await cluster.wait_idle()
    url = f"http://127.0.0.1:{port + 2}/metrics"  # the control plane's, the prefill worker's, this
    drafts = await asyncio.to_thread(counted, url, "baton_worker_draft_tokens_total")
    assert drafts > 0
    await asyncio.to_thread(cluster.stop)
