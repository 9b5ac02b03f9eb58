"""Measures vLLM's CPU build on the Qwen3-0.6B shape. Run by vLLM's interpreter, not by Baton's.

    VLLM_PYTHON -P vllm_cpu.py THREADS REPEATS

Prints one JSON object, values by the row names of baton.bench.engine, as its last line.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

SHAPE = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONTEXT, PROMPT, SUFFIX, NEW_TOKENS = 512, 2048, 40, 33


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    threads, repeats = int(sys.argv[1]), int(sys.argv[2])
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "5")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    # The environment is read when it is imported, and only its own interpreter has it.
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(SHAPE))
        llm = LLM(
            folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            enforce_eager=True,
            dtype="bfloat16",
            max_model_len=PROMPT + CONTEXT,
            max_num_batched_tokens=PROMPT + CONTEXT,
            enable_prefix_caching=True,
        )
    print(json.dumps(measure(llm, SamplingParams, repeats)))


def measure(llm: Any, sampling: Any, repeats: int) -> dict[str, float]:
    serial = 0

    def prompts(count: int, length: int) -> list[dict[str, list[int]]]:
        """Prompts that no earlier call has cached."""
        nonlocal serial
        made = []
        for _ in range(count):
            serial += 1
            made.append({"prompt_token_ids": [3 + serial, *range(10, 9 + length)]})
        return made

    def generate(requests: list[dict[str, list[int]]], tokens: int) -> float:
        """Seconds to answer all requests with that many tokens each."""
        params = sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        return timed(lambda: llm.generate(requests, params, use_tqdm=False))

    def decode(batch: int) -> float:
        """Tokens/s: the first token, with the prompts, is timed apart and taken off."""
        requests = prompts(batch, CONTEXT - NEW_TOKENS // 2)
        generate(requests, 1)  # caches the prompts
        first = median(generate(requests, 1) for _ in range(repeats))
        whole = median(generate(requests, NEW_TOKENS) for _ in range(repeats))
        return batch * (NEW_TOKENS - 1) / (whole - first)

    def cached() -> float:
        """Milliseconds of a prompt of which all but the end is cached."""
        request = prompts(1, PROMPT - SUFFIX)[0]
        generate([request], 1)
        longer = {"prompt_token_ids": [*request["prompt_token_ids"], *range(SUFFIX)]}
        return 1e3 * generate([longer], 1)

    generate(prompts(1, CONTEXT), 4)  # warm
    values = {f"engine.decode.b{batch}": decode(batch) for batch in (1, 8, 32)}
    prefill = median(generate(prompts(1, PROMPT), 1) for _ in range(repeats))
    values[f"engine.prefill.{PROMPT}"] = PROMPT / prefill
    values[f"engine.prefill.{SUFFIX}_of_{PROMPT}"] = median(cached() for _ in range(repeats))
    return values


if __name__ == "__main__":
    main()
