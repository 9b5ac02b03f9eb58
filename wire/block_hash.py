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
    parent, digest = root_hash(salt), xxhash.xxh3_64_intdigest
    packed = array("I", tokens)
    data, size = packed.tobytes(), BLOCK_SIZE * packed.itemsize
    starts = range(0, len(data) - size + 1, size)
    return [parent := digest(data[at : at + size], parent) for at in starts]
