"""The KV cache's blocks: who references them, and which of them hold a known prefix."""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.block_log import BlockLog
from engine.kept_blocks import KeptBlocks
from wire.messages import BlockEvent, BlockSnapshot


@dataclass(slots=True, eq=False)
class CachedBlock:
    """A full block in the prefix cache: a node of the tree of all cached prefixes.

    Two blocks are equal when their tokens are and their parents are the same node; the hash only
    finds the candidate. `salt` separates the trees of tenants and counts at the root.
    """

    block_id: int
    hash: int
    tokens: bytes
    parent: "CachedBlock | None"
    salt: str
    children: dict[int, "CachedBlock"] = field(default_factory=dict)  # by block id
    is_cached: bool = True

    def is_block(self, tokens: bytes, parent: "CachedBlock | None", salt: str) -> bool:
        return self.tokens == tokens and self.parent is parent and self.salt == salt


class BlockPool:
    """Owns every block's reference count and the prefix cache.

        free  --allocate-->  referenced  --release, not cached-->  free
                             referenced  --release, cached------>  idle
        idle  --claim (a hit)-->  referenced         idle  --evicted by allocate-->  free

    Whoever allocates or claims blocks releases each of them once. A parent never leaves the cache
    before its children: evicting it takes them out, too. Idle blocks that somebody keeps are
    evicted last.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
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
    def num_cached(self) -> int:
        return len(self._by_hash)

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    def match(self, keys: Iterable[tuple[int, bytes]], salt: str) -> list[CachedBlock]:
        """The cached blocks of the longest known prefix, given each block's hash and tokens."""
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
        """References the cached prefix and `num_new` fresh blocks; None when they do not fit."""
        if not self.can_claim(prefix, num_new):
            return None
        for block in prefix:
            assert block.is_cached, f"block {block.block_id} left the cache"
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
        assert parent is None or parent.is_cached, "the parent left the cache"
        known = self._by_hash.get(block_hash)
        if known is not None:
            return known if known.is_block(tokens, parent, salt) else None
        assert self._cached_at[block_id] is None, f"block {block_id} has another content"
        block = CachedBlock(block_id, block_hash, tokens, parent, salt)
        if parent is not None:
            parent.children[block_id] = block
        self._by_hash[block_hash] = block
        self._cached_at[block_id] = block
        self._log.store(block_hash)
        return block

    def keep(self, tip: CachedBlock | None, until_s: float) -> None:
        """Evicts a cached block and all above it after all others, until then.

        At most a quarter of the pool is kept; of what goes beyond it the beginning is.
        """
        chain: list[int] = []
        while tip is not None:
            if tip.is_cached:
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
            if self._cached_at[block_id] is not None:
                self._evict(block_id)

    def take_event(self) -> BlockEvent | None:
        return self._log.take()

    def snapshot(self) -> BlockSnapshot:
        return self._log.snapshot(self._by_hash)

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
        block = self._cached_at[block_id]
        assert block is not None, f"block {block_id} is not cached"
        if block.parent is not None:
            del block.parent.children[block_id]
        for left in _subtree(block):
            self._forget(left)

    def _forget(self, block: CachedBlock) -> None:
        block.is_cached = False
        self._cached_at[block.block_id] = None
        del self._by_hash[block.hash]
        self._log.remove(block.hash)
        self._kept.drop(block.block_id)
        idle = self._idle_kept if block.block_id in self._idle_kept else self._idle
        if block.block_id in idle:
            del idle[block.block_id]
            heapq.heappush(self._free, block.block_id)

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
        assert len(self._by_hash) == sum(c is not None for c in self._cached_at), "stray hash"
        assert set(self._idle_kept) == idle & set(self._kept), "idle blocks are kept unseen"
        assert len(self._kept) <= self._kept.max_blocks, "too many blocks are kept"
        assert all(self._cached_at[block_id] for block_id in self._kept), "a stray block is kept"

    def _check_cached(self, block_id: int, block: CachedBlock) -> None:
        assert block.is_cached and block.block_id == block_id, f"block {block_id} is not itself"
        assert self._by_hash.get(block.hash) is block, f"block {block_id} has no hash entry"
        if block.parent is not None:
            assert block.parent.is_cached, f"block {block_id} outlived its parent"
            assert block.parent.children.get(block_id) is block, f"block {block_id} is not a child"
            until_s = self._kept.until_s
            assert until_s(block_id) <= until_s(block.parent.block_id), "a child is kept longer"


def _subtree(block: CachedBlock) -> Iterator[CachedBlock]:
    pending = [block]
    while pending:
        node = pending.pop()
        pending.extend(node.children.values())
        yield node
