"""What rank 0 tells the process of another rank before the first step."""

from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import ModelConfig
from engine.layers.shard import Shard

READY = "ready"
"""What a rank answers when its weights are loaded; the cache's layout and descriptor follow."""


@dataclass(frozen=True, slots=True)
class RankSetup:
    """What a rank loads and computes on, and where it meets the others.

    has_own_kv: it computes in memory of its device, not in the worker's pool.
    """

    shard: Shard
    directory: Path
    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    has_own_kv: bool
    fp8_kv: bool
    threads: int
    meeting_file: Path
    timeout_s: float
