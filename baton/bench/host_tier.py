"""Blocks between a CPU worker's pool and its host tier, and a prompt that comes back.

Beside each direction stands a plain copy of as many bytes that lie together; beside the prompt's
way back its computation, by the Qwen3-0.6B shape. All take turns.
"""

from statistics import median

import torch

from baton.bench.cpu_ceiling import MemoryReader, alternate, share
from baton.bench.engine import BF16, BLOCK, PROMPT, QWEN3_06B, EngineBench
from baton.bench.row import Row
from engine.host_memory import PlainHostMemory
from engine.models import Model
from engine.weights import random_model
from runtime.clock import SystemClock


def run(repeats: int) -> list[Row]:
    return measure(random_model(QWEN3_06B, BF16, seed=0), repeats)


def measure(model: Model, repeats: int, num_tokens: int = PROMPT) -> list[Row]:
    """Save, load and return: the ratios are shares of a plain copy's rate, and how many times
    sooner the prompt is back than computed."""
    num_blocks = num_tokens // BLOCK
    kv = torch.empty(model.config.kv_shape(2 * num_blocks), dtype=BF16).normal_()
    memory = PlainHostMemory(kv, num_blocks, SystemClock())
    order = torch.randperm(2 * num_blocks, generator=torch.Generator().manual_seed(1)).tolist()
    slots = dict(enumerate(order[:num_blocks]))
    blocks = {block: slot for slot, block in slots.items()}
    whole = kv[:, :num_blocks].contiguous()
    there = torch.empty_like(whole)
    save_s, load_s, copy_s, compute_s = alternate(
        [
            lambda: memory.save(slots),
            lambda: memory.load(blocks),
            lambda: there.copy_(whole),
            EngineBench(model, repeats, MemoryReader(1 << 20)).step(1, num_tokens, num_tokens),
        ],
        repeats,
    )
    num_bytes = whole.numel() * whole.dtype.itemsize
    rows = []
    for name, own_s in (("save", save_s), ("load", load_s)):
        rate, ratio = num_bytes / median(own_s) / 1e9, share(copy_s, own_s)
        rows.append(Row(f"engine.host.{name}", rate, "GB/s", "plain copy", rate / ratio, ratio))
    ms, ratio = 1e3 * median(load_s), share(compute_s, load_s)
    rows.append(Row(f"engine.host.return.{num_tokens}", ms, "ms", "computed", ms * ratio, ratio))
    return rows
