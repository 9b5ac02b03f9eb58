"""Memory in huge pages: a step reads all weights, and small pages cost it address look-ups."""

import contextlib
import mmap

import torch
from torch import Tensor


def huge_empty(num_bytes: int) -> Tensor:
    """[num_bytes] uint8 of private zeroed memory, in huge pages where the system grants them."""
    region = mmap.mmap(-1, max(num_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages serves from small ones
            region.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(region, dtype=torch.uint8)
