"""The block pool against a slow, obvious model, with hashes weak enough to collide."""

import zlib
from array import array
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from engine.block_pool import BlockPool, CachedBlock

NUM_BLOCKS = 12
BLOCK = 2


def as_bytes(tokens: tuple[int, ...]) -> bytes:
    return array("I", tokens).tobytes()


def weak_hash(path: tuple[tuple[int, ...], ...], salt: str) -> int:
    return zlib.crc32(repr((path, salt)).encode()) % 11


def keys_of(blocks: tuple[tuple[int, ...], ...], salt: str) -> list[tuple[int, bytes]]:
    return [(weak_hash(blocks[: i + 1], salt), as_bytes(b)) for i, b in enumerate(blocks)]


@dataclass(eq=False)
class Holder:
    """A sequence as the pool sees one: full blocks of tokens, and the ids that hold them."""

    blocks: tuple[tuple[int, ...], ...]
    salt: str
    ids: list[int]
    num_stored: int
    tip: CachedBlock | None = None
    path_is_open: bool = True


TOKENS = st.lists(
    st.tuples(*[st.integers(0, 1)] * BLOCK), min_size=1, max_size=5, unique=False
).map(tuple)


class PoolMachine(RuleBasedStateMachine):
    holders = Bundle("holders")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.alive: list[Holder] = []
        self.content: dict[int, tuple[str, tuple[tuple[int, ...], ...]]] = {}
        self.mirror: set[int] = set()
        self.sequence_number = 0
        self.now_s = 0.0

    @rule(target=holders, blocks=TOKENS, salt=st.sampled_from(["", "tenant"]))
    def start(self, blocks: tuple[tuple[int, ...], ...], salt: str) -> Holder:
        prefix = self.pool.match(keys_of(blocks, salt), salt)
        for i, block in enumerate(prefix):
            assert self.content[block.block_id] == (salt, blocks[: i + 1]), "a false hit"
        num_new = len(blocks) - len(prefix)
        in_use = {b for h in self.alive for b in h.ids}
        fits = len(in_use | {b.block_id for b in prefix}) + num_new <= NUM_BLOCKS
        ids = self.pool.claim(prefix, num_new)
        assert (ids is not None) == fits
        holder = Holder(blocks, salt, ids or [], len(prefix), prefix[-1] if prefix else None)
        if ids is not None:
            fresh = ids[len(prefix) :]
            assert not in_use & set(fresh), "a referenced block was handed out again"
            assert ids[: len(prefix)] == [b.block_id for b in prefix]
            for i in range(len(prefix), len(ids)):
                self.content[ids[i]] = (salt, blocks[: i + 1])
            self.alive.append(holder)
        return holder

    @rule(holder=holders)
    def store_next(self, holder: Holder) -> None:
        if holder not in self.alive or holder.num_stored == len(holder.ids):
            return
        if not holder.path_is_open or (holder.tip is not None and not holder.tip.is_cached):
            return
        i = holder.num_stored
        block_hash, tokens = keys_of(holder.blocks, holder.salt)[i]
        stored = self.pool.store(holder.ids[i], block_hash, tokens, holder.tip, holder.salt)
        holder.num_stored += 1
        holder.tip, holder.path_is_open = stored, stored is not None
        if stored is not None:
            assert self.content[stored.block_id] == (holder.salt, holder.blocks[: i + 1])
            found = self.pool.match(keys_of(holder.blocks[: i + 1], holder.salt), holder.salt)
            assert found[-1] is stored

    @rule(holder=consumes(holders))
    def release(self, holder: Holder) -> None:
        if holder in self.alive:
            self.alive.remove(holder)
            self.pool.release(holder.ids)

    @rule(holder=holders)
    def distrust(self, holder: Holder) -> None:
        if holder in self.alive:
            self.pool.uncache(holder.ids)
            found = self.pool.match(keys_of(holder.blocks, holder.salt), holder.salt)
            assert not {block.block_id for block in found} & set(holder.ids)

    @rule(holder=holders, keep_s=st.sampled_from([1.0, 5.0]))
    def keep(self, holder: Holder, keep_s: float) -> None:
        if holder in self.alive:
            before = self.pool.num_free
            self.pool.keep(holder.tip, self.now_s + keep_s)
            assert self.pool.num_free == before, "what is kept may still be taken"

    @rule(seconds=st.sampled_from([0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.pool.let_go(self.now_s)

    @rule()
    def event(self) -> None:
        event = self.pool.take_event()
        if event is not None:
            self.sequence_number += 1
            assert event.sequence_number == self.sequence_number
            assert event.stored or event.removed
            assert set(event.removed) <= self.mirror
            self.mirror -= set(event.removed)
            assert not self.mirror & set(event.stored)
            self.mirror |= set(event.stored)

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.pool.check_integrity()
        assert self.pool.num_kept <= NUM_BLOCKS // 4
        in_use = [b for h in self.alive for b in h.ids]
        assert self.pool.references() == [in_use.count(b) for b in range(NUM_BLOCKS)]
        assert self.pool.num_free == NUM_BLOCKS - len(set(in_use))
        snapshot = self.pool.snapshot()
        assert snapshot.sequence_number == self.sequence_number
        assert set(snapshot.stored) == self.mirror
        assert len(snapshot.stored) == len(self.mirror)


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestPoolMachine = PoolMachine.TestCase


def fill(pool: BlockPool, *tokens: int, salt: str = "") -> list[int]:
    """A sequence of one-token blocks, computed, cached and released."""
    blocks = tuple((token,) for token in tokens)
    prefix = pool.match(plain_keys(blocks), salt)
    ids = pool.claim(prefix, len(tokens) - len(prefix))
    assert ids is not None
    tip = prefix[-1] if prefix else None
    for i in range(len(prefix), len(ids)):
        block_hash, content = plain_keys(blocks)[i]
        tip = pool.store(ids[i], block_hash, content, tip, salt)
    pool.release(ids)
    pool.check_integrity()
    return ids


def plain_keys(blocks: tuple[tuple[int, ...], ...]) -> list[tuple[int, bytes]]:
    return [(hash(blocks[: i + 1]), as_bytes(b)) for i, b in enumerate(blocks)]


def cached(pool: BlockPool, *tokens: int) -> int:
    return len(pool.match(plain_keys(tuple((token,) for token in tokens)), ""))


def test_the_least_recently_used_prefix_is_evicted_first_and_its_leaf_before_its_root() -> None:
    pool = BlockPool(6)
    fill(pool, 1, 2, 3)
    fill(pool, 4, 5, 6)
    taken = pool.allocate(1)
    assert (cached(pool, 1, 2, 3), cached(pool, 4, 5, 6)) == (2, 3)
    pool.release(taken)
    fill(pool, 1, 2)
    taken = pool.allocate(2)
    assert (cached(pool, 1, 2), cached(pool, 4, 5, 6)) == (2, 2)
    pool.release(taken)


def test_free_blocks_are_used_before_cached_ones_are_evicted() -> None:
    pool = BlockPool(4)
    fill(pool, 1, 2)
    taken = pool.allocate(2)
    assert cached(pool, 1, 2) == 2
    assert pool.allocate(3) is None
    pool.release(taken)


def test_blocks_are_given_in_runs_of_neighbours() -> None:
    pool = BlockPool(16)
    first, second = pool.allocate(5), pool.allocate(5)
    assert first == [0, 1, 2, 3, 4] and second == [5, 6, 7, 8, 9]
    pool.release(first)
    assert pool.allocate(4) == [0, 1, 2, 3]
    pool.release(second)
    pool.check_integrity()


def test_a_hit_keeps_its_blocks_from_being_evicted() -> None:
    pool = BlockPool(4)
    ids = fill(pool, 1, 2, 3)
    prefix = pool.match(plain_keys(((1,), (2,))), "")
    held = pool.claim(prefix, 0)
    assert held == ids[:2]
    assert pool.allocate(3) is None
    taken = pool.allocate(2)
    assert cached(pool, 1, 2, 3) == 2
    pool.release(taken)
    pool.release(held)


def test_a_claim_counts_idle_hits_as_used() -> None:
    pool = BlockPool(3)
    fill(pool, 1, 2)
    prefix = pool.match(plain_keys(((1,), (2,))), "")
    assert pool.claim(prefix, 2) is None
    assert pool.num_free == 3
    held = pool.claim(prefix, 1)
    assert len(held) == 3
    pool.release(held)


def test_a_duplicate_s_children_hang_below_the_first_copy_and_leave_with_it() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(1), pool.allocate(2)
    keys = plain_keys(((1,), (2,)))
    root = pool.store(first[0], *keys[0], None, "")
    assert pool.store(second[0], *keys[0], None, "") is root
    child = pool.store(second[1], *keys[1], root, "")
    pool.release(first)
    taken = pool.allocate(2)
    assert not root.is_cached and not child.is_cached
    assert pool.take_event() is None, "stored and removed within one event"
    pool.check_integrity()
    pool.release(second)
    pool.release(taken)
    assert pool.num_free == 4


def keep(pool: BlockPool, until_s: float, *tokens: int) -> None:
    pool.keep(pool.match(plain_keys(tuple((token,) for token in tokens)), "")[-1], until_s)


def test_what_is_kept_outlives_what_was_used_later_until_its_time_is_over() -> None:
    pool = BlockPool(8)
    fill(pool, 1, 2)
    keep(pool, 10.0, 1, 2)
    fill(pool, 3, 4, 5, 6, 7, 8)
    taken = pool.allocate(6)
    assert (cached(pool, 1, 2), cached(pool, 3)) == (2, 0)
    pool.release(taken)
    pool.let_go(9.9)
    fill(pool, 3, 4, 5, 6, 7, 8)
    pool.let_go(10.0)
    taken = pool.allocate(1)
    assert (cached(pool, 1, 2), cached(pool, 3, 4, 5, 6, 7, 8)) == (1, 6)
    pool.release(taken)


def test_a_running_sequence_gets_even_what_is_kept() -> None:
    pool = BlockPool(4)
    fill(pool, 1)
    keep(pool, 10.0, 1)
    assert pool.num_free == 4
    taken = pool.allocate(4)
    assert cached(pool, 1) == 0 and pool.num_kept == 0
    pool.release(taken)
    pool.check_integrity()


def test_at_most_a_quarter_is_kept_the_beginning_of_what_does_not_fit() -> None:
    pool = BlockPool(12)
    fill(pool, 1, 2, 3, 4, 5)
    keep(pool, 10.0, 1, 2, 3, 4, 5)
    fill(pool, 6)
    keep(pool, 10.0, 6)
    assert pool.num_kept == 3
    taken = pool.allocate(9)
    assert (cached(pool, 1, 2, 3, 4, 5), cached(pool, 6)) == (3, 0)
    pool.release(taken)


def test_a_shared_beginning_is_kept_as_long_as_the_later_of_two_wants_it() -> None:
    pool = BlockPool(16)
    fill(pool, 1, 2)
    fill(pool, 1, 3)
    keep(pool, 20.0, 1, 2)
    keep(pool, 10.0, 1, 3)
    pool.let_go(10.0)
    pool.check_integrity()
    assert pool.num_kept == 2
    pool.let_go(20.0)
    assert pool.num_kept == 0


def test_releasing_twice_is_caught() -> None:
    pool = BlockPool(2)
    ids = pool.allocate(1)
    pool.release(ids)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(ids)
