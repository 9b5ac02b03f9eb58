"""How an attention kernel cuts its work, and what both of them derive from the shapes."""

import functools
import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Tile:
    """One program's share: query rows by keys a step, and what the compiler is told."""

    rows: int  # (query token, head) pairs that share a kv head
    keys: int
    warps: int
    stages: int  # tiles of keys on their way from memory, plus one
    registers: int | None = None  # at most so many a thread, so that two programs fit


def next_power_of_2(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def padded_dim(head_dim: int) -> int:
    """The width that a matrix product takes: a power of two, 16 at least."""
    return max(16, next_power_of_2(head_dim))


def softmax_scale(head_dim: int) -> float:
    """What scores are multiplied with, for a softmax in base 2."""
    return math.log2(math.e) / math.sqrt(head_dim)


@functools.cache
def num_processors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device; 1 in the interpreter."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
