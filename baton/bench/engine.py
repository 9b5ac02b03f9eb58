"""Decode and prefill of the Qwen3-0.6B shape on the CPU, beside what the machine allows.

    python -m baton.bench.engine [--repeats N] [--vllm-python VENV/bin/python]

With an interpreter that has vLLM's CPU build, the same shape is measured there, in its own process.
"""

import argparse
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from baton.bench.cpu_ceiling import (
    LayerProducts,
    MemoryReader,
    alternate,
    decode_floor_s,
    share,
)
from baton.bench.row import Row
from engine.config import ModelConfig
from engine.models import BatchInput, Model
from engine.rope_config import RopeConfig
from engine.weights import random_model
from runtime.settings import environment

BF16 = torch.bfloat16
BLOCK = 16
CONTEXT = 512
PROMPT = 2048
FEW_TOKENS = 256  # enough for torch to multiply at its full rate
SUFFIX = 40  # tokens of a prompt whose beginning is cached
VLLM_SCRIPT = Path(__file__).parent / "vllm_cpu.py"
VLLM_TIMEOUT_S = 1800.0

QWEN3_06B = ModelConfig(
    architecture="Qwen3ForCausalLM",
    num_layers=28,
    hidden_size=1024,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=3072,
    vocab_size=151936,
    rope=RopeConfig(theta=1e6),
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    qk_norm=True,
    qkv_bias=False,
    o_bias=False,
    mlp_bias=False,
    layer_windows=(None,) * 28,
    max_position_embeddings=4096,
    dtype=BF16,
)


def run(repeats: int, vllm_python: str = "") -> list[Row]:
    """All rows: medians of `repeats` runs, each taken in turn with its baseline.

    `vllm_python` (default: BATON_VLLM_PYTHON) names an interpreter that can import vLLM.
    """
    interpreter = vllm_python or environment("VLLM_PYTHON")
    peer = measure_vllm(interpreter, repeats) if interpreter else {}
    rows = EngineBench(random_model(QWEN3_06B, BF16, seed=0), repeats, MemoryReader()).rows()
    return rows + beside(rows, peer)


@dataclass(frozen=True, slots=True)
class EngineBench:
    """One model on the CPU; each method measures a row."""

    model: Model
    repeats: int
    reader: MemoryReader

    def rows(self) -> list[Row]:
        decodes = [self.decode(batch) for batch in (1, 8, 32)]
        return [self.bandwidth(), *decodes, self.prefill(PROMPT), self.cached_prefill()]

    def bandwidth(self) -> Row:
        """How fast memory is read in huge pages, beside torch's sum over ordinary ones."""
        num_bytes = self.reader.num_bytes
        plain = torch.ones(num_bytes // 4)
        ours, theirs = alternate([self.reader, plain.sum], self.repeats)
        rate, ratio = num_bytes / median(ours) / 1e9, share(theirs, ours)
        return Row("engine.read", rate, "GB/s", "torch.sum", rate / ratio, ratio)

    def decode(self, batch: int) -> Row:
        """One token for each of `batch` sequences, beside the roofline of reading and products."""
        products = LayerProducts.random(self.model.config, FEW_TOKENS)
        step = self.step(batch, CONTEXT, 1)
        own_s, read_s, products_s = alternate([step, self.reader, products], self.repeats)
        floors_s = [
            decode_floor_s(
                self.model.config,
                batch,
                CONTEXT,
                bytes_per_s=self.reader.num_bytes / read,
                flops=products.flops / multiply,
            )
            for read, multiply in zip(read_s, products_s, strict=True)
        ]
        return _rate(f"engine.decode.b{batch}", batch, own_s, "roofline", floors_s)

    def prefill(self, tokens: int) -> Row:
        """A whole prompt, beside the time that torch takes for its projections alone."""
        products = LayerProducts.random(self.model.config, tokens).of_all_layers
        own_s, floors_s = alternate([self.step(1, tokens, tokens), products], self.repeats)
        return _rate(f"engine.prefill.{tokens}", tokens, own_s, "torch projections", floors_s)

    def cached_prefill(self) -> Row:
        """The end of a prompt whose beginning is cached, beside the projections of that end."""
        products = LayerProducts.random(self.model.config, SUFFIX).of_all_layers
        own_s, floors_s = alternate([self.step(1, PROMPT, SUFFIX), products], self.repeats)
        ms, ratio = 1e3 * median(own_s), share(floors_s, own_s)
        name = f"engine.prefill.{SUFFIX}_of_{PROMPT}"
        return Row(name, ms, "ms", "torch projections", ms * ratio, ratio)

    def step(self, sequences: int, context: int, queries: int) -> Callable[[], Tensor]:
        """A forward pass of the last `queries` tokens of each sequence over a random cache."""
        batch, num_blocks = scattered_batch(sequences, context, queries, self.model.config)
        kv = torch.empty(self.model.config.kv_shape(num_blocks), dtype=BF16).normal_()
        return partial(self.model.forward, batch, kv)


def scattered_batch(
    sequences: int, context: int, queries: int, config: ModelConfig
) -> tuple[BatchInput, int]:
    """Equal sequences whose blocks lie at random, and the number of blocks that they take."""
    generator = torch.Generator().manual_seed(1)
    blocks = -(-context // BLOCK)
    tables = torch.randperm(sequences * blocks, generator=generator).view(sequences, blocks)
    positions = torch.arange(context - queries, context)
    slots = tables[:, positions // BLOCK] * BLOCK + positions % BLOCK
    rows = sequences * queries
    batch = BatchInput(
        token_ids=torch.randint(config.vocab_size, (rows,), generator=generator),
        positions=positions.repeat(sequences),
        slots=slots.flatten(),
        block_tables=tables.int(),
        query_start=torch.arange(0, rows + 1, queries, dtype=torch.int32),
        context_len=torch.full((sequences,), context, dtype=torch.int32),
        logit_rows=torch.arange(queries - 1, rows, queries),
    )
    return batch, sequences * blocks


def _rate(name: str, tokens: int, own_s: list[float], baseline: str, floors_s: list[float]) -> Row:
    rate, ratio = tokens / median(own_s), share(floors_s, own_s)
    return Row(name, rate, "tokens/s", baseline, rate / ratio, ratio)


def measure_vllm(interpreter: str, repeats: int) -> dict[str, float]:
    """The same shape by vLLM, in its own process: value by row name. Raises CalledProcessError."""
    command = [interpreter, "-P", str(VLLM_SCRIPT), str(torch.get_num_threads()), str(repeats)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=VLLM_TIMEOUT_S, check=True
    )
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def beside(rows: list[Row], peer: dict[str, float]) -> list[Row]:
    """A second row for each figure that vLLM has too; the ratio says how much better ours is."""
    measured = [(row, peer[row.name]) for row in rows if row.name in peer]
    return [
        Row(
            f"{row.name}.vllm",
            row.value,
            row.unit,
            "vLLM CPU",
            theirs,
            theirs / row.value if row.unit == "ms" else row.value / theirs,
        )
        for row, theirs in measured
    ]


def main() -> None:
    """Print the rows as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vllm-python", default="")
    arguments = parser.parse_args()
    for row in run(arguments.repeats, arguments.vllm_python):
        print(json.dumps(asdict(row)))


if __name__ == "__main__":
    main()
