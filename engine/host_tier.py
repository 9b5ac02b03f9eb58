"""The cache's second tier: what of it comes back to the device, when, and how much at a time."""

from engine.block_pool import BlockPool
from engine.cached_block import CachedBlock
from engine.host_memory import HostMemory
from engine.prefix import store_blocks
from engine.sequence import Sequence
from runtime.recent_median import RecentMedian
from wire.messages import NO_HOST, HostLoad


class HostTier:
    """Between the pool's books and the memory; without memory there is no tier.

    A claimed sequence has its slots pinned until their bytes are in its blocks, so many blocks a
    step as take no longer than the step's tokens would to compute: a batch waits for a prompt's
    return no longer than for its prefill.
    """

    def __init__(self, pool: BlockPool, memory: HostMemory | None, block_size: int) -> None:
        self._pool = pool
        self._memory = memory
        self._block_size = block_size
        self._block_compute_s = RecentMedian()  # of prefill
        self._room = 0  # blocks that this step may still bring back
        self._restore_s = 0.0
        self._num_restored = 0
        self._num_device_hits = 0
        self._num_host_hits = 0
        self.restored_now = False  # since begin_step

    def split(self, found: list[CachedBlock]) -> tuple[list[CachedBlock], list[CachedBlock]]:
        """What is on the device, and what is worth its way back behind that."""
        num_here = sum(block.is_on_device for block in found)
        return found[:num_here], found[num_here:] if self._is_worth_it else []

    def claimed(self, seq: Sequence, slots: list[int]) -> None:
        """The sequence has blocks for these pinned slots, behind the prefix that it has adopted."""
        seq.host_slots = slots
        self._num_device_hits += seq.num_computed > 0
        self._num_host_hits += bool(slots)

    def begin_step(self, max_tokens: int) -> None:
        room = -(-max_tokens // self._block_size)
        if self._memory is not None and self._memory.block_s > 0:
            room = max(room, int(room * self._block_compute_s.value / self._memory.block_s))
        self._room = room
        self.restored_now = False

    def restore(self, seq: Sequence) -> bool:
        """Brings back what the step has room for; False while something is left."""
        count = min(self._room, len(seq.host_slots))
        if count:
            assert self._memory is not None, "slots without memory"
            slots, seq.host_slots = seq.host_slots[:count], seq.host_slots[count:]
            first = seq.num_computed // self._block_size
            self.flush()
            blocks = seq.block_ids[first : first + count]
            self._memory.load(dict(zip(blocks, slots, strict=True)))
            seq.num_computed += count * self._block_size
            store_blocks(self._pool, seq)
            self._pool.host.unpin(slots)
            self._count(count)
        return not seq.host_slots

    def give_up(self, seq: Sequence) -> None:
        """What has not come back is computed, or pulled."""
        self._pool.host.unpin(seq.host_slots)
        seq.host_slots = []

    def flush(self) -> None:
        """Makes the copies of what was evicted, before anybody writes to its blocks."""
        copies = self._pool.host.take_copies()
        if copies:
            assert self._memory is not None, "slots without memory"
            self._memory.save(copies)

    def take_restore_s(self) -> float:
        """What bringing blocks back has taken since the last call."""
        taken_s, self._restore_s = self._restore_s, 0.0
        return taken_s

    def computed(self, num_tokens: int, step_s: float) -> None:
        """A step of that many tokens, most of them of prompts."""
        self._block_compute_s.add(step_s * self._block_size / num_tokens)

    @property
    def _is_worth_it(self) -> bool:
        """Copying a block is no slower than computing it, or one of them was not measured."""
        if self._memory is None:
            return False
        return not 0 < self._block_compute_s.value < self._memory.block_s

    def load(self) -> HostLoad:
        if self._memory is None:
            return NO_HOST
        slots = self._pool.host
        return HostLoad(
            num_blocks=slots.num_slots,
            num_used_blocks=slots.num_used,
            block_s=self._memory.block_s,
            num_restored_tokens=self._num_restored * self._block_size,
            num_device_hits=self._num_device_hits,
            num_host_hits=self._num_host_hits,
        )

    def _count(self, num_blocks: int) -> None:
        assert self._memory is not None
        self._room -= num_blocks
        self._num_restored += num_blocks
        self._restore_s += num_blocks * self._memory.block_s
        self.restored_now = True
