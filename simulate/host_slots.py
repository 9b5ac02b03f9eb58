"""The cached units of a worker with two tiers, and which of them its host's memory holds."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class HostSlot:
    """Room for one unit. unit: None once it has left the cache while somebody reads the slot."""

    unit: "Unit | None"
    num_pins: int = 0


@dataclass(slots=True, eq=False)
class Unit:
    """A node of the tree of cached prefixes: on the device, in a slot, or both."""

    key: int
    parent: "Unit | None"
    children: "dict[int, Unit]" = field(default_factory=dict)
    is_on_device: bool = False
    slot: HostSlot | None = None

    def subtree(self) -> "Iterator[Unit]":
        """This unit and all below it, parents before their children."""
        pending = [self]
        while pending:
            unit = pending.pop()
            pending.extend(unit.children.values())
            yield unit

    def subtree_on_device(self) -> "list[Unit]":
        """The same without what the device does not hold, children before their parents."""
        found: list[Unit] = []
        pending = [self]
        while pending:
            unit = pending.pop()
            pending.extend(child for child in unit.children.values() if child.is_on_device)
            found.append(unit)
        return found[::-1]


class HostSlots:
    """The engine's rules for slots: who was used longest ago goes first, and a slot that is read
    keeps its bytes.

        free  --put-->  held  --drop-->  free
                        held  --pin-->  pinned  --unpin-->  held
                                        pinned  --drop-->  orphaned  --unpin-->  free
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.num_used = 0
        self._held: OrderedDict[HostSlot, None] = OrderedDict()  # unpinned, oldest first
        self._pinned: dict[HostSlot, None] = {}
        self._unsaved: dict[HostSlot, None] = {}

    @property
    def is_full(self) -> bool:
        return self.num_used == self.num_slots

    @property
    def oldest(self) -> Unit | None:
        """Who goes next; None when every slot is pinned."""
        slot = next(iter(self._held), None)
        return None if slot is None else slot.unit

    def put(self, unit: Unit) -> None:
        """Gives a unit of the device a free slot."""
        unit.slot = slot = HostSlot(unit)
        self.num_used += 1
        self._held[slot] = self._unsaved[slot] = None

    def touch(self, unit: Unit) -> None:
        """It goes last of all."""
        if unit.slot is not None and unit.slot in self._held:
            self._held.move_to_end(unit.slot)

    def drop(self, unit: Unit) -> None:
        """The unit leaves this tier, in which it may not be."""
        slot, unit.slot = unit.slot, None
        if slot is None:
            return
        slot.unit = None
        if not slot.num_pins:
            del self._held[slot]
            self._vacate(slot)

    def pin(self, units: Iterable[Unit]) -> list[HostSlot]:
        """Their slots, whose bytes stay until each is unpinned once."""
        slots = []
        for unit in units:
            slot = unit.slot
            assert slot is not None, "a unit is pinned that the host does not hold"
            self._held.pop(slot, None)
            self._pinned[slot] = None
            slot.num_pins += 1
            slots.append(slot)
        return slots

    def unpin(self, slots: list[HostSlot]) -> None:
        """A chain's leaves become older than their roots."""
        for slot in reversed(slots):
            slot.num_pins -= 1
            if slot.num_pins:
                continue
            del self._pinned[slot]
            if slot.unit is None:
                self._vacate(slot)
            else:
                self._held[slot] = None

    def take_saves(self) -> int:
        """How many slots were given away since the last call, and have their unit still."""
        num_saves = len(self._unsaved)
        self._unsaved.clear()
        return num_saves

    def units(self) -> set[Unit]:
        """All that have a slot."""
        return {slot.unit for slot in (*self._held, *self._pinned) if slot.unit is not None}

    def check_integrity(self) -> None:
        """Every slot is in exactly one state. Raises AssertionError."""
        assert self.num_used == len(self._held) + len(self._pinned) <= self.num_slots
        assert not self._held.keys() & self._pinned.keys(), "a slot is in two states"
        assert all(slot.num_pins > 0 for slot in self._pinned), "a slot has no pin"
        assert all(slot.unit is not None and not slot.num_pins for slot in self._held)
        assert all(unit.slot is not None and unit.slot.unit is unit for unit in self.units())

    def _vacate(self, slot: HostSlot) -> None:
        self._unsaved.pop(slot, None)
        self.num_used -= 1
