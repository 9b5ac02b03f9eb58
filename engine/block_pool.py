"""The KV cache's blocks: who references them, and which of them hold a known prefix."""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from engine.cached_block import NOWHERE, CachedBlock
from engine.host_slots import HostSlots
from engine.kept_blocks import KeptBlocks
from wire.block_log import BlockLog, Tier
from wire.messages import BlockEvent, BlockSnapshot


class BlockPool:
    """Owns every block's reference count and the prefix cache.

        free  --allocate-->  referenced  --release, not cached-->  free
                             referenced  --release, cached------>  idle
        idle  --claim (a hit)-->  referenced         idle  --evicted by allocate-->  free

    Whoever allocates or claims blocks releases each of them once. A parent never leaves the device
    before its children: evicting it takes them out, too. Idle blocks that somebody keeps are
    evicted last. What is evicted stays in the cache while the host tier has a slot for it, and
    leaves it with all below it when that slot is given away.
    """

    def __init__(self, num_blocks: int, num_host_slots: int = 0) -> None:
        self.num_blocks = num_blocks
        self.host = HostSlots(num_host_slots)
        self._references = [0] * num_blocks
        self._cached_at: list[CachedBlock | None] = [None] * num_blocks
        self._by_hash: dict[int, CachedBlock] = {}
        self._free = list(range(num_blocks))  # a heap: low ids first, so that runs stay together
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._idle_kept: OrderedDict[int, None] = OrderedDict()
        self._kept = KeptBlocks(num_blocks)
        self._log = BlockLog()

    @property
    def num_free(self) -> int:
        """Blocks that nobody references: free, or cached and evictable."""
        return len(self._free) + len(self._idle) + len(self._idle_kept)

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    def match(self, keys: Iterable[tuple[int, bytes]], salt: str) -> list[CachedBlock]:
        """The cached blocks of the longest known prefix, given each block's hash and tokens: those
        on the device, then those that only the host holds."""
        found: list[CachedBlock] = []
        parent: CachedBlock | None = None
        for block_hash, tokens in keys:
            block = self._by_hash.get(block_hash)
            if block is None or not block.is_block(tokens, parent, salt):
                break
            found.append(block)
            parent = block
        return found

    def can_claim(self, prefix: Sequence[CachedBlock], num_new: int) -> bool:
        idle = sum(self._references[block.block_id] == 0 for block in prefix)
        return self.num_free - idle >= num_new

    def claim(self, prefix: Sequence[CachedBlock], num_new: int) -> list[int] | None:
        """References a prefix that is on the device, and `num_new` fresh blocks; None when they do
        not fit."""
        if not self.can_claim(prefix, num_new):
            return None
        for block in prefix:
            assert block.is_on_device, "a block is claimed that left the device"
            self._idle.pop(block.block_id, None)
            self._idle_kept.pop(block.block_id, None)
            self._references[block.block_id] += 1
        return [block.block_id for block in prefix] + self._take(num_new)

    def allocate(self, num_new: int) -> list[int] | None:
        """References fresh blocks, ascending; None when fewer are free."""
        return self.claim((), num_new)

    def release(self, block_ids: Sequence[int]) -> None:
        """Drops one reference of each block of a sequence; its last block is evicted first."""
        for block_id in reversed(block_ids):
            assert self._references[block_id] > 0, f"block {block_id} is released twice"
            self._references[block_id] -= 1
            if self._references[block_id] == 0:
                self._put_back(block_id)

    def store(
        self, block_id: int, block_hash: int, tokens: bytes, parent: CachedBlock | None, salt: str
    ) -> CachedBlock | None:
        """Enters a referenced block, full and computed, into the cache.

        Gives the cached block of that content, which is an older one when the content is known.
        None when another content has the hash: this one stays out.
        """
        assert self._references[block_id] > 0, f"block {block_id} is stored but not referenced"
        assert parent is None or parent.is_on_device, "the parent left the device"
        block = self._by_hash.get(block_hash)
        if block is not None and not block.is_block(tokens, parent, salt):
            return None
        if block is None:
            block = CachedBlock(NOWHERE, block_hash, tokens, parent, salt)
            if parent is not None:
                parent.children[block_hash] = block
            self._by_hash[block_hash] = block
        if not block.is_on_device:
            assert self._cached_at[block_id] is None, f"block {block_id} has another content"
            self._log.move(block_hash, Tier.HOST if block.is_on_host else None, Tier.DEVICE)
            self._cached_at[block_id] = block
            block.block_id = block_id
        return block

    def keep(self, tip: CachedBlock | None, until_s: float) -> None:
        """Evicts a cached block and all above it after all others, until then.

        At most a quarter of the pool is kept; of what goes beyond it the beginning is.
        """
        chain: list[int] = []
        while tip is not None:
            if tip.is_on_device:
                chain.append(tip.block_id)
            tip = tip.parent
        for block_id in self._kept.keep(reversed(chain), until_s):
            if block_id in self._idle:
                del self._idle[block_id]
                self._idle_kept[block_id] = None

    def let_go(self, now_s: float) -> None:
        """What was kept until now goes first from here on, its leaves before their roots."""
        for block_id in self._kept.let_go(now_s):
            if block_id in self._idle_kept:
                del self._idle_kept[block_id]
                self._idle[block_id] = None
                self._idle.move_to_end(block_id, last=False)

    def uncache(self, block_ids: Iterable[int]) -> None:
        """Takes blocks whose content is not to be trusted, and all below them, out of the cache."""
        for block_id in block_ids:
            block = self._cached_at[block_id]
            if block is not None:
                self._forget(block)

    def take_event(self) -> BlockEvent | None:
        return self._log.take()

    def snapshot(self) -> BlockSnapshot:
        return self._log.snapshot({h: _tier(block) for h, block in self._by_hash.items()})

    def references(self) -> list[int]:
        """Every block's reference count, by block id."""
        return self._references.copy()

    def _take(self, num_new: int) -> list[int]:
        taken: list[int] = []
        while len(taken) < num_new:
            if not self._free:
                self._evict(next(iter(self._idle or self._idle_kept)))
            taken.append(heapq.heappop(self._free))
        for block_id in taken:
            self._references[block_id] = 1
        taken.sort()
        return taken

    def _evict(self, block_id: int) -> None:
        """Takes a block and all below it off the device; the host holds on to what it can."""
        evicted = self._cached_at[block_id]
        assert evicted is not None, f"block {block_id} is not cached"
        for block in evicted.subtree_on_device():
            if self._has_slot(block):
                self._leave_device(block)
                self._log.move(block.hash, Tier.DEVICE, Tier.HOST)
            else:
                self._forget(block)

    def _has_slot(self, block: CachedBlock) -> bool:
        """The host holds the block from now on, in the place of its oldest one if it must."""
        if block.is_on_host:
            self.host.touch(block)
            return True
        while self.host.is_full:
            oldest = self.host.oldest
            if oldest is None:
                return False
            if oldest.is_on_device:
                self.host.drop(oldest)
            else:
                self._forget(oldest)
        self.host.put(block)
        return True

    def _forget(self, block: CachedBlock) -> None:
        """Takes a block and all below it out of the cache."""
        if block.parent is not None:
            del block.parent.children[block.hash]
        for left in block.subtree():
            self._log.move(left.hash, _tier(left), None)
            self.host.drop(left)
            if left.is_on_device:
                self._leave_device(left)
            del self._by_hash[left.hash]

    def _leave_device(self, block: CachedBlock) -> None:
        block_id, block.block_id = block.block_id, NOWHERE
        self._cached_at[block_id] = None
        self._kept.drop(block_id)
        idle = self._idle_kept if block_id in self._idle_kept else self._idle
        if block_id in idle:
            del idle[block_id]
            heapq.heappush(self._free, block_id)

    def _put_back(self, block_id: int) -> None:
        if self._cached_at[block_id] is None:
            heapq.heappush(self._free, block_id)
        elif block_id in self._kept:
            self._idle_kept[block_id] = None
        else:
            self._idle[block_id] = None

    def check_integrity(self) -> None:
        """Every block is in exactly one state and the cache is a tree. Raises AssertionError."""
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert not self._idle.keys() & self._idle_kept.keys(), "a block is idle twice"
        idle = self._idle.keys() | self._idle_kept.keys()
        for block_id, count in enumerate(self._references):
            cached = self._cached_at[block_id]
            where = (block_id in free, block_id in idle, count > 0)
            assert where == (not count and not cached, not count and bool(cached), count > 0), (
                f"block {block_id} with {count} references, cached={cached is not None}: {where}"
            )
            if cached is not None:
                self._check_cached(block_id, cached)
        assert set(self._idle_kept) == idle & set(self._kept), "idle blocks are kept unseen"
        assert len(self._kept) <= self._kept.max_blocks, "too many blocks are kept"
        assert all(self._cached_at[block_id] for block_id in self._kept), "a stray block is kept"
        self._check_tree()

    def _check_cached(self, block_id: int, block: CachedBlock) -> None:
        assert block.block_id == block_id, f"block {block_id} is not itself"
        if block.parent is not None:
            assert block.parent.is_on_device, f"block {block_id} outlived its parent"
            until_s = self._kept.until_s
            assert until_s(block_id) <= until_s(block.parent.block_id), "a child is kept longer"

    def _check_tree(self) -> None:
        """The tree's nodes are those that a tier holds."""
        self.host.check_integrity()
        nodes = set(self._by_hash.values())
        held = {block for block in self._cached_at if block is not None}
        assert nodes == held | set(self.host.blocks().values()), "a tier and the tree disagree"
        for block_hash, block in self._by_hash.items():
            assert block.hash == block_hash, f"{block_hash} leads to another block"
            assert not block.is_on_device or self._cached_at[block.block_id] is block
            if block.parent is not None:
                assert block.parent.children.get(block_hash) is block, "a child is unknown above"
                assert block.parent in nodes, "a block outlived its parent"


def _tier(block: CachedBlock) -> Tier:
    return Tier.DEVICE if block.is_on_device else Tier.HOST
