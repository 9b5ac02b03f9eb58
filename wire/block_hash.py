"""Chained hashes of full token blocks: equal hashes mean an equal block behind an equal prefix."""

from array import array
from collections.abc import Sequence

import xxhash

BLOCK_SIZE = 16


def root_hash(salt: str = "") -> int:
    """The parent of a prompt's first block. Prompts of different salts never share a block."""
    return xxhash.xxh3_64_intdigest(salt.encode(), seed=BLOCK_SIZE)


def next_hash(parent: int, tokens: Sequence[int]) -> int:
    """The 64-bit hash of a full block of `tokens` that follows the block (or root) `parent`."""
    return xxhash.xxh3_64_intdigest(array("I", tokens).tobytes(), seed=parent)


def block_hashes(tokens: Sequence[int], salt: str = "") -> list[int]:
    """The chained hashes of every full block of `tokens`; a rest shorter than a block has none."""
    hashes: list[int] = []
    parent = root_hash(salt)
    packed = array("I", tokens)
    for start in range(0, len(packed) - BLOCK_SIZE + 1, BLOCK_SIZE):
        block = packed[start : start + BLOCK_SIZE].tobytes()
        parent = xxhash.xxh3_64_intdigest(block, seed=parent)
        hashes.append(parent)
    return hashes
