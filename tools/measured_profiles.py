"""Profiles from the kernel times that NVIDIA published in aiconfigurator-core. Dev time only.

    unzip aiconfigurator_core-0.12.0-*.whl -d DIR
    python tools/measured_profiles.py DIR/aiconfigurator_core/systems/data/h200_sxm profiles/data

needs pyarrow. For each model it sums a layer's measured matrix products, attention and all-reduces
(vLLM 0.24.0, BF16, H200) to whole steps over a grid of batches, contexts and prompts, and fits the
coefficients of profiles/profile.py to them. What the tables leave out (norms, sampling, the host)
is the roofline's overhead of a step and of a sequence; memory and links are the roofline's, too.
"""

import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as parquet

from profiles.catalog import dump, load_profile
from simulate.fit import fit_steps
from wire.messages import StepTotals

STEP_OVERHEAD_S, SEQUENCE_OVERHEAD_S = 0.0008, 8e-6  # profiles/roofline.py
VERSION = "aiconfigurator-core 0.12.0, vLLM 0.24.0, NVIDIA H200, BF16"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (511, 1023, 2047, 4095, 8191, 16383)
LONG_PROMPTS = (4096, 6144, 8192, 10240, 12288, 16384)
PROMPTS = (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192)


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, from its config.json."""

    roofline: str
    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    vocabulary: int
    num_gpus: int


SHAPES = (
    Shape("llama-3.1-8b@h200", 32, 4096, 14336, 32, 8, 128256, 1),
    Shape("llama-3.1-70b@h200x4", 80, 8192, 28672, 64, 8, 128256, 4),
)


class Tables:
    """Measured seconds, linear between the points that were measured and beyond the last two."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        heads = shape.num_heads // shape.num_gpus, max(1, shape.num_kv_heads // shape.num_gpus)
        self._gemm: dict[int, dict[int, dict[int, float]]] = {}
        for row in _rows(folder / "gemm/vllm/0.24.0/gemm_perf.parquet", gemm_dtype="bfloat16"):
            by_n = self._gemm.setdefault(row["k"], {}).setdefault(row["n"], {})
            by_n[row["m"]] = row["latency"] / 1e3
        wanted = {
            "num_heads": heads[0],
            "num_key_value_heads": heads[1],
            "head_dim": 128,
            "window_size": 0,
            "kv_cache_dtype": "bfloat16",
        }
        attention = folder / "attention/vllm/0.24.0"
        self._prompt: dict[int, float] = {}
        for row in _rows(attention / "context_attention_perf.parquet", batch_size=1, **wanted):
            self._prompt[row["isl"]] = row["latency"] / 1e3
        self._decode: dict[int, dict[int, float]] = {}
        for row in _rows(attention / "generation_attention_perf.parquet", **wanted):
            by_batch = self._decode.setdefault(row["step"], {})
            by_batch[row["batch_size"]] = row["latency"] / 1e3
        self._joined: dict[int, float] = {}
        if shape.num_gpus > 1:
            join = folder / "comm/vllm/0.24.0/custom_allreduce_perf.parquet"
            for row in _rows(join, num_gpus=shape.num_gpus, backend="vllm_graph"):
                self._joined[row["message_size"]] = row["latency"] / 1e3

    def gemm_s(self, m: int, n: int, k: int) -> float:
        by_k = {
            size: _between({width: _between(times, m) for width, times in by_n.items()}, n)
            for size, by_n in self._gemm.items()
            if size in _neighbours(sorted(self._gemm), k)
        }
        return _between(by_k, k)

    def prompt_attention_s(self, num_tokens: int) -> float:
        return _between(self._prompt, num_tokens)

    def knows(self, batch: int, context: int) -> bool:
        return batch in self._decode.get(context, {})

    def decode_attention_s(self, batch: int, context: int) -> float:
        return self._decode[context][batch]

    def join_s(self, num_values: int) -> float:
        """An all-reduce of so many BF16 values, which the table's message sizes count."""
        return _between(self._joined, num_values) if self._joined else 0.0


def layers_s(tables: Tables, shape: Shape, m: int) -> float:
    """All layers' matrix products and all-reduces over m tokens."""
    gpus, hidden = shape.num_gpus, shape.hidden
    heads, kv_heads = shape.num_heads // gpus, max(1, shape.num_kv_heads // gpus)
    layer_s = (
        tables.gemm_s(m, (heads + 2 * kv_heads) * 128, hidden)
        + tables.gemm_s(m, hidden, heads * 128)
        + tables.gemm_s(m, 2 * shape.intermediate // gpus, hidden)
        + tables.gemm_s(m, hidden, shape.intermediate // gpus)
        + 2 * tables.join_s(m * hidden)
    )
    return shape.num_layers * layer_s


def pair_s(tables: Tables, shape: Shape) -> float:
    """Attention of long prompts, by the square of their tokens: the median over their lengths."""
    attention_s = tables.prompt_attention_s
    return median(shape.num_layers * attention_s(tokens) / tokens**2 for tokens in LONG_PROMPTS)


def samples(tables: Tables, shape: Shape, kv_tokens: int) -> Iterator[StepTotals]:
    """One step each, as a worker's telemetry would tell it, less what pair_s accounts for."""
    cost_s = pair_s(tables, shape)
    head_n = shape.vocabulary // shape.num_gpus
    for batch in BATCHES:
        head_s = tables.gemm_s(batch, head_n, shape.hidden)
        base_s = layers_s(tables, shape, batch) + head_s
        base_s += STEP_OVERHEAD_S + SEQUENCE_OVERHEAD_S * batch
        for context in CONTEXTS:
            if batch * context <= kv_tokens and tables.knows(batch, context):
                attention_s = shape.num_layers * tables.decode_attention_s(batch, context)
                yield StepTotals(1, 0, base_s + attention_s, batch, batch * context)
    head_s = tables.gemm_s(1, head_n, shape.hidden) + STEP_OVERHEAD_S
    for tokens in PROMPTS:
        attention_s = shape.num_layers * tables.prompt_attention_s(tokens) - cost_s * tokens**2
        step_s = layers_s(tables, shape, tokens) + attention_s + head_s
        yield StepTotals(1, 1, step_s, 0, 0, tokens)


def main(folder: Path, out: Path) -> None:
    for shape in SHAPES:
        known = load_profile(shape.roofline)
        tables = Tables(folder, shape)
        steps = list(samples(tables, shape, known.kv_tokens))
        fit = fit_steps([(StepTotals(), step) for step in steps])
        name = f"{shape.roofline}-measured"
        profile = replace(
            known,
            name=name,
            source=f"sums of measured kernels: {VERSION}; {fit.num_samples} steps, median error "
            f"{fit.error:.1%} (tools/measured_profiles.py); memory and links by the roofline",
            step_s=fit.step_s,
            sequence_s=fit.sequence_s,
            context_token_s=fit.context_token_s,
            prefill_step_s=fit.prefill_step_s,
            prefill_token_s=fit.prefill_token_s,
            prefill_pair_s=pair_s(tables, shape),
        )
        (out / f"{name}.toml").write_text(dump(profile))
        print(f"{name}: median error {fit.error:.1%}")


def _rows(path: Path, **wanted: object) -> Iterator[Mapping[str, Any]]:
    for row in parquet.read_table(path).to_pylist():
        if all(row[key] == value for key, value in wanted.items()):
            yield row


def _neighbours(points: list[int], at: int) -> tuple[int, ...]:
    """The measured point itself, or the two around it, or the last two."""
    if at in points:
        return (at,)
    place = min(max(bisect_left(points, at), 1), len(points) - 1)
    return points[place - 1], points[place]


def _between(values: Mapping[int, float], at: int) -> float:
    near = _neighbours(sorted(values), at)
    if len(near) == 1:
        return values[near[0]]
    low, high = near
    return values[low] + (values[high] - values[low]) * (at - low) / (high - low)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
