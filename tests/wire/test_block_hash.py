"""Chained hashes name a block together with everything before it."""

from hypothesis import given
from hypothesis import strategies as st

from wire.block_hash import BLOCK_SIZE, block_hashes, next_hash, root_hash

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=100)


@given(TOKENS, TOKENS)
def test_equal_prefixes_have_equal_hashes_and_longer_prompts_only_add(
    prefix: list[int], rest: list[int]
) -> None:
    short, long = block_hashes(prefix), block_hashes(prefix + rest)
    assert long[: len(short)] == short
    assert len(long) == (len(prefix) + len(rest)) // BLOCK_SIZE


@given(st.lists(st.integers(0, 2**32 - 1), min_size=32, max_size=32), st.integers(0, 15))
def test_a_changed_token_changes_its_block_and_every_later_one(
    tokens: list[int], index: int
) -> None:
    changed = [*tokens]
    changed[index] ^= 1
    assert all(a != b for a, b in zip(block_hashes(tokens), block_hashes(changed), strict=True))


def test_the_whole_list_equals_the_chain_of_single_steps() -> None:
    tokens = list(range(50))
    parent, chain = root_hash("salt"), []
    for start in range(0, 48, BLOCK_SIZE):
        parent = next_hash(parent, tokens[start : start + BLOCK_SIZE])
        chain.append(parent)
    assert block_hashes(tokens, "salt") == chain


def test_salts_keep_tenants_apart() -> None:
    tokens = list(range(32))
    assert not set(block_hashes(tokens, "a")) & set(block_hashes(tokens, "b"))
