"""Which blocks the fabric's bench moves, alike in every process."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wire.kv import KVLayout

# Pools of 512 MiB. A block of one layer: 32 KiB, and 4 KiB where single operations are timed.
POOL = KVLayout(1, 16384, 8, 16, 64, "bfloat16")
SMALL_POOL = KVLayout(1, 4096, 1, 16, 64, "bfloat16")
NUM_LISTS = 8  # that take turns, so that no list stays in the processor's caches


@dataclass(frozen=True, slots=True)
class BlockList:
    """One read: blocks of the source and where they go, in order."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return len(self.source) * POOL.region_bytes


def scattered() -> list[BlockList]:
    """512 blocks each, scattered on both sides."""
    rng = np.random.default_rng(7)
    return [BlockList(_some(rng), _some(rng)) for _ in range(NUM_LISTS)]


def contiguous() -> list[BlockList]:
    """256 MiB in one piece."""
    blocks = tuple(range(POOL.num_blocks // 2))
    return [BlockList(blocks, blocks)]


LISTS = {"scattered": scattered, "contiguous": contiguous}


def runs(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """(offset, bytes) of each run of consecutive blocks."""
    joined: list[tuple[int, int]] = []
    size = POOL.region_bytes
    for block in blocks:
        if joined and sum(joined[-1]) == block * size:
            joined[-1] = (joined[-1][0], joined[-1][1] + size)
        else:
            joined.append((block * size, size))
    return joined


def _some(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.permutation(POOL.num_blocks)[:512].tolist())
