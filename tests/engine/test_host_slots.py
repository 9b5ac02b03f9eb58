"""The pool of two tiers against a slow, obvious model of what each of them holds."""

import zlib
from array import array
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from engine.block_pool import BlockPool
from engine.cached_block import CachedBlock

NUM_BLOCKS = 6
Path = tuple[int, ...]  # a block is one token, its content all tokens up to it
Content = tuple[str, Path]


def hash_of(salt: str, path: Path) -> int:
    return zlib.crc32(repr((salt, path)).encode()) % 97  # weak, so that hashes collide


def keys_of(salt: str, path: Path) -> list[tuple[int, bytes]]:
    return [
        (hash_of(salt, path[: i + 1]), array("I", [token]).tobytes())
        for i, token in enumerate(path)
    ]


@dataclass(eq=False)
class Holder:
    """A sequence: blocks for its whole path, of which so many are computed or came back."""

    salt: str
    path: Path
    ids: list[int]
    slots: list[int]
    num_stored: int
    tip: CachedBlock | None
    may_store: bool = True


@dataclass
class Bytes:
    """What lies in blocks and slots, as the copies have left it."""

    blocks: dict[int, Content] = field(default_factory=dict)
    slots: dict[int, Content] = field(default_factory=dict)


PATHS = st.lists(st.integers(0, 1), min_size=1, max_size=5).map(tuple)


class TierMachine(RuleBasedStateMachine):
    holders = Bundle("holders")

    @initialize(num_slots=st.sampled_from([1, 3, 8, 40]))
    def begin(self, num_slots: int) -> None:
        self.pool = BlockPool(NUM_BLOCKS, num_slots)
        self.bytes = Bytes()
        self.alive: list[Holder] = []
        self.told: dict[int, str] = {}
        self.sequence_number = 0

    def flush(self) -> None:
        for slot, block_id in self.pool.host.take_copies().items():
            self.bytes.slots[slot] = self.bytes.blocks[block_id]

    @rule(target=holders, salt=st.sampled_from(["", "tenant"]), path=PATHS)
    def start(self, salt: str, path: Path) -> Holder:
        found = self.pool.match(keys_of(salt, path), salt)
        here = [block for block in found if block.is_on_device]
        behind = found[len(here) :]
        assert not any(block.is_on_device for block in behind), "the device's blocks come first"
        num_new = len(path) - len(here)
        if not self.pool.can_claim(here, num_new):
            return Holder(salt, path, [], [], 0, None)
        slots = self.pool.host.pin(behind)
        ids = self.pool.claim(here, num_new)
        self.flush()
        for depth, block_id in enumerate(ids[: len(here)], 1):
            assert self.bytes.blocks[block_id] == (salt, path[:depth]), "a false hit"
        for depth, slot in enumerate(slots, len(here) + 1):
            assert self.bytes.slots[slot] == (salt, path[:depth]), "a false hit on the host"
        for block_id in ids[len(here) :]:
            self.bytes.blocks.pop(block_id, None)
        holder = Holder(salt, path, ids, slots, len(here), here[-1] if here else None)
        self.alive.append(holder)
        return holder

    @rule(holder=holders, count=st.integers(1, 5))
    def go_on(self, holder: Holder, count: int) -> None:
        for _ in range(count):
            self.next_block(holder)

    @rule(salt=st.sampled_from(["", "tenant"]), path=PATHS)
    def serve(self, salt: str, path: Path) -> None:
        holder = self.start(salt, path)
        self.go_on(holder, len(path))
        self.release(holder)

    def next_block(self, holder: Holder) -> None:
        """The next block comes back from its slot, or is computed; then it is stored."""
        if holder not in self.alive or holder.num_stored == len(holder.ids):
            return
        if not holder.may_store or (holder.tip is not None and not holder.tip.is_on_device):
            return
        depth = holder.num_stored
        content = (holder.salt, holder.path[: depth + 1])
        if holder.slots:
            slot = holder.slots.pop(0)
            assert self.bytes.slots[slot] == content
            self.bytes.blocks[holder.ids[depth]] = self.bytes.slots[slot]
            self.pool.host.unpin([slot])
        self.bytes.blocks[holder.ids[depth]] = content
        key = keys_of(holder.salt, holder.path)[depth]
        stored = self.pool.store(holder.ids[depth], *key, holder.tip, holder.salt)
        holder.num_stored, holder.tip = depth + 1, stored
        holder.may_store = stored is not None
        if stored is not None:
            assert stored.is_on_device
            assert self.bytes.blocks[stored.block_id] == content

    @rule(holder=consumes(holders))
    def release(self, holder: Holder) -> None:
        if holder in self.alive:
            self.alive.remove(holder)
            self.pool.host.unpin(holder.slots)
            self.pool.release(holder.ids)

    @rule(holder=holders)
    def distrust(self, holder: Holder) -> None:
        if holder in self.alive:
            self.pool.uncache(holder.ids)
            found = self.pool.match(keys_of(holder.salt, holder.path), holder.salt)
            assert not {block.block_id for block in found} & set(holder.ids)

    @rule()
    def event(self) -> None:
        event = self.pool.take_event()
        if event is None:
            return
        self.sequence_number += 1
        assert event.sequence_number == self.sequence_number
        for tier, gone in (("device", event.removed), ("host", event.host_removed)):
            assert all(self.told[h] == tier for h in gone)
        for h in (*event.removed, *event.host_removed):
            del self.told[h]
        assert not set(event.host_stored) & self.told.keys(), "it was told already"
        assert all(self.told.get(h) in (None, "host") for h in event.stored)
        self.told.update(dict.fromkeys(event.stored, "device"))
        self.told.update(dict.fromkeys(event.host_stored, "host"))

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check_integrity()
        snapshot = self.pool.snapshot()
        assert snapshot.sequence_number == self.sequence_number
        told = dict.fromkeys(snapshot.stored, "device")
        assert told | dict.fromkeys(snapshot.host_stored, "host") == self.told
        in_use = [block_id for holder in self.alive for block_id in holder.ids]
        assert self.pool.references() == [in_use.count(b) for b in range(NUM_BLOCKS)]
        pinned = [slot for holder in self.alive for slot in holder.slots]
        assert sorted(self.pool.host.pins().elements()) == sorted(pinned)


TierMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestTierMachine = TierMachine.TestCase


def fill(pool: BlockPool, *tokens: int) -> None:
    """A sequence, computed, cached and released."""
    path = tuple(tokens)
    keys = [(hash(path[: i + 1]), bytes([token])) for i, token in enumerate(path)]
    here = [block for block in pool.match(keys, "") if block.is_on_device]
    ids = pool.claim(here, len(path) - len(here))
    tip = here[-1] if here else None
    for i in range(len(here), len(path)):
        tip = pool.store(ids[i], *keys[i], tip, "")
    pool.release(ids)
    pool.host.take_copies()
    pool.check_integrity()


def tiers(pool: BlockPool, *tokens: int) -> tuple[int, int]:
    """Leading blocks on the device, and behind them on the host."""
    path = tuple(tokens)
    keys = [(hash(path[: i + 1]), bytes([token])) for i, token in enumerate(path)]
    found = pool.match(keys, "")
    num_here = sum(block.is_on_device for block in found)
    return num_here, len(found) - num_here


def test_what_the_device_evicts_the_host_holds_until_it_is_full_too() -> None:
    pool = BlockPool(3, 4)
    fill(pool, 1, 2, 3)
    fill(pool, 4, 5)
    assert (tiers(pool, 1, 2, 3), tiers(pool, 4, 5)) == ((1, 2), (2, 0))
    fill(pool, 6, 7, 8)
    assert (tiers(pool, 1, 2, 3), tiers(pool, 4, 5)) == ((0, 2), (0, 2))
    assert pool.host.num_used == 4


def test_a_block_that_came_back_is_evicted_again_without_a_copy() -> None:
    pool = BlockPool(2, 4)
    fill(pool, 1, 2)
    fill(pool, 3, 4)
    fill(pool, 1, 2)
    assert tiers(pool, 1, 2) == (2, 0)
    taken = pool.allocate(2)
    assert tiers(pool, 1, 2) == (0, 2)
    assert pool.host.take_copies() == {}
    pool.release(taken)


def test_without_slots_what_is_evicted_is_forgotten() -> None:
    pool = BlockPool(2)
    fill(pool, 1, 2)
    pool.take_event()
    taken = pool.allocate(1)
    assert tiers(pool, 1, 2) == (1, 0)
    event = pool.take_event()
    assert (len(event.removed), event.host_stored, event.host_removed) == (1, (), ())
    pool.release(taken)


def test_a_slot_that_is_read_outlives_its_block() -> None:
    pool = BlockPool(2, 1)
    fill(pool, 1)
    taken = pool.allocate(2)
    found = pool.match([(hash((1,)), bytes([1]))], "")
    slots = pool.host.pin(found)
    pool.release(taken)
    fill(pool, 2)
    pool.release(pool.allocate(2))
    assert tiers(pool, 1) == (0, 1), "the pinned slot was given away"
    assert tiers(pool, 2) == (0, 0)
    pool.host.unpin(slots)
    fill(pool, 3)
    pool.release(pool.allocate(2))
    assert (tiers(pool, 1), tiers(pool, 3)) == ((0, 0), (0, 1))
    pool.check_integrity()
