"""A modelled worker's KV memory with a second tier: what the device evicts, its host holds."""

from collections.abc import Sequence

from simulate.host_slots import HostSlot, HostSlots, Unit
from simulate.kv_pool import KvPool
from wire.block_log import BlockLog, Tier
from wire.messages import BlockEvent, BlockSnapshot


class TieredKvPool(KvPool):
    """The engine's rules for both tiers (docs/adr/0038), over units.

    A parent never leaves the device before its children: who uses a unit references all above it,
    and evicting one takes out all below it. A unit that is evicted stays in the cache while a slot
    holds it. Contents without a name are forgotten with their eviction.
    """

    def __init__(self, num_blocks: int, unit_blocks: int, num_host_blocks: int) -> None:
        super().__init__(num_blocks, unit_blocks)
        self.host = HostSlots(num_host_blocks // unit_blocks)
        self._units: dict[int, Unit] = {}
        self._log = BlockLog()

    def num_behind(self, keys: Sequence[int], depth: int) -> int:
        """How many units the host holds behind `depth` ones that the device does."""
        end = depth
        while end < len(keys) and keys[end] in self._units:
            end += 1
        return end - depth

    def pin(self, keys: Sequence[int]) -> list[HostSlot]:
        """Keeps what the host has of these units until `host.unpin`."""
        return self.host.pin(self._units[key] for key in keys)

    def store(self, key: int, parent: int | None, held: list[int]) -> int:
        unit = self._units.get(key)
        if unit is None:
            above = None if parent is None else self._units[parent]
            unit = self._units[key] = Unit(key, above)
            if above is not None:
                above.children[key] = unit
        held.append(key)
        if unit.is_on_device:
            self._reference(key)
            return 0
        self._log.move(key, None if unit.slot is None else Tier.HOST, Tier.DEVICE)
        unit.is_on_device = True
        self._references[key] = 1
        return self.unit_blocks

    def take_event(self) -> BlockEvent | None:
        return self._log.take()

    def snapshot(self) -> BlockSnapshot:
        return self._log.snapshot({key: _tier(unit) for key, unit in self._units.items()})

    def check_integrity(self, num_private: int) -> None:
        super().check_integrity(num_private)
        self.host.check_integrity()
        on_device = {unit for unit in self._units.values() if unit.is_on_device}
        assert {unit.key for unit in on_device} == self._references.keys(), "a unit is lost"
        assert set(self._units.values()) == on_device | self.host.units(), "the tiers disagree"
        for unit in self._units.values():
            above = unit.parent
            assert above is None or self._units.get(above.key) is above, "a unit outlived its root"
            assert above is None or above.is_on_device or not unit.is_on_device, "a unit hangs"

    def _evict(self, key: int) -> None:
        if key < 0:
            super()._evict(key)
            return
        for unit in self._units[key].subtree_on_device():
            if self._has_slot(unit):
                self._leave_device(unit)
                self._log.move(unit.key, Tier.DEVICE, Tier.HOST)
            else:
                self._forget(unit)

    def _has_slot(self, unit: Unit) -> bool:
        """The host holds the unit from now on, in the place of its oldest one if it must."""
        if unit.slot is not None:
            self.host.touch(unit)
            return True
        while self.host.is_full:
            oldest = self.host.oldest
            if oldest is None:
                return False
            if oldest.is_on_device:
                self.host.drop(oldest)
            else:
                self._forget(oldest)
        self.host.put(unit)
        return True

    def _forget(self, unit: Unit) -> None:
        """Takes a unit and all below it out of the cache."""
        if unit.parent is not None:
            del unit.parent.children[unit.key]
        for left in unit.subtree():
            self._log.move(left.key, _tier(left), None)
            self.host.drop(left)
            if left.is_on_device:
                self._leave_device(left)
            del self._units[left.key]

    def _leave_device(self, unit: Unit) -> None:
        unit.is_on_device = False
        self._drop_idle(unit.key)
        del self._references[unit.key]


def _tier(unit: Unit) -> Tier:
    return Tier.DEVICE if unit.is_on_device else Tier.HOST
