"""The slots of the host tier: which block is in each, who reads it, and what is still to be copied
there."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from engine.cached_block import NOWHERE, CachedBlock


class HostSlots:
    """Room for blocks that the device has no room for; who was used longest ago goes first.

        free  --put-->  held  --dropped-->  free
                        held  --pin-->  pinned  --unpin-->  held
                                        pinned  --dropped-->  orphaned  --unpin-->  free

    A pinned slot keeps its bytes until whoever pinned it has read them, also where its block leaves
    the cache meanwhile. `put` only notes the copy: `take_copies` gives those that are to be made
    before anybody writes to the blocks or reads the slots.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._held: OrderedDict[int, CachedBlock] = OrderedDict()  # unpinned, oldest first
        self._pinned: dict[int, CachedBlock | None] = {}  # None: orphaned
        self._pins: Counter[int] = Counter()
        self._copies: dict[int, int] = {}  # slot -> block

    @property
    def num_used(self) -> int:
        return self.num_slots - len(self._free)

    @property
    def is_full(self) -> bool:
        return not self._free

    @property
    def oldest(self) -> CachedBlock | None:
        """Who goes next; None when every slot is pinned."""
        return next(iter(self._held.values()), None)

    def put(self, block: CachedBlock) -> None:
        """Gives a block of the device a free slot."""
        slot = block.host_slot = self._free.pop()
        self._held[slot] = block
        self._copies[slot] = block.block_id

    def touch(self, block: CachedBlock) -> None:
        """It goes last of all."""
        if block.host_slot in self._held:
            self._held.move_to_end(block.host_slot)

    def drop(self, block: CachedBlock) -> None:
        """The block leaves this tier, in which it may not be."""
        slot, block.host_slot = block.host_slot, NOWHERE
        if slot in self._pinned:
            self._pinned[slot] = None
        elif slot != NOWHERE:
            del self._held[slot]
            self._vacate(slot)

    def pin(self, blocks: Iterable[CachedBlock]) -> list[int]:
        """The blocks' slots, whose bytes stay until each is unpinned once."""
        slots = []
        for block in blocks:
            slot = block.host_slot
            assert slot != NOWHERE, "a block is pinned that the host does not hold"
            self._held.pop(slot, None)
            self._pinned[slot] = block
            self._pins[slot] += 1
            slots.append(slot)
        return slots

    def unpin(self, slots: Sequence[int]) -> None:
        """A chain's leaves become older than their roots."""
        for slot in reversed(slots):
            assert self._pins[slot] > 0, f"slot {slot} is not pinned"
            self._pins[slot] -= 1
            if self._pins[slot]:
                continue
            del self._pins[slot]
            block = self._pinned.pop(slot)
            if block is None:
                self._vacate(slot)
            else:
                self._held[slot] = block

    def take_copies(self) -> dict[int, int]:
        """The block that each slot is to get its bytes from, since the last call."""
        copies, self._copies = self._copies, {}
        return copies

    def blocks(self) -> dict[int, CachedBlock]:
        """Who is in each slot; orphans are left out."""
        pinned = {slot: block for slot, block in self._pinned.items() if block is not None}
        return {**self._held, **pinned}

    def pins(self) -> Counter[int]:
        """By slot, how often it is pinned."""
        return self._pins.copy()

    def check_integrity(self) -> None:
        """Every slot is in exactly one state. Raises AssertionError."""
        slots = [*self._free, *self._held, *self._pinned]
        assert sorted(slots) == list(range(self.num_slots)), "a slot is lost or in two states"
        assert self._pins.keys() == self._pinned.keys(), "the pins disagree with the pinned slots"
        assert all(count > 0 for count in self._pins.values()), "a slot has no pin"
        for slot, block in self.blocks().items():
            assert block.host_slot == slot, f"slot {slot} has a block that is elsewhere"
        assert not self._copies.keys() & set(self._free), "a copy is to go to a free slot"

    def _vacate(self, slot: int) -> None:
        self._copies.pop(slot, None)
        self._free.append(slot)
