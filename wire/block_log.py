"""What entered and left the prefix cache's tiers, as the router is told."""

from collections.abc import Mapping
from enum import Enum, auto

from wire.messages import BlockEvent, BlockSnapshot


class Tier(Enum):
    """The best place where the cache has a block."""

    DEVICE = auto()
    HOST = auto()


class BlockLog:
    """Collects changes between two events; an event holds the net change, removals first."""

    def __init__(self) -> None:
        self._sequence_number = 0
        self._told: dict[int, Tier | None] = {}  # as the last event left what has changed since
        self._now: dict[int, Tier | None] = {}  # the same at present; parents before their children

    def move(self, block_hash: int, before: Tier | None, now: Tier | None) -> None:
        """The block has changed its tier; None: it is in neither."""
        self._told.setdefault(block_hash, before)
        self._now.pop(block_hash, None)
        self._now[block_hash] = now

    def take(self) -> BlockEvent | None:
        """The changes since the last event, or None when there are none."""
        told, self._told = self._told, {}
        now, self._now = self._now, {}
        changed = {h: tier for h, tier in now.items() if tier is not told[h]}
        if not changed:
            return None
        self._sequence_number += 1
        return BlockEvent(
            self._sequence_number,
            stored=tuple(h for h, tier in changed.items() if tier is Tier.DEVICE),
            removed=tuple(h for h in changed if told[h] is Tier.DEVICE),
            host_stored=tuple(h for h, tier in changed.items() if tier is Tier.HOST),
            host_removed=tuple(
                h for h, tier in changed.items() if tier is None and told[h] is Tier.HOST
            ),
        )

    def snapshot(self, cached: Mapping[int, Tier]) -> BlockSnapshot:
        """The cache as of the last event, given what it holds at this moment."""
        before = {h: tier for h, tier in self._told.items() if tier is not None}
        before.update((h, tier) for h, tier in cached.items() if h not in self._told)
        return BlockSnapshot(
            self._sequence_number,
            stored=tuple(h for h, tier in before.items() if tier is Tier.DEVICE),
            host_stored=tuple(h for h, tier in before.items() if tier is Tier.HOST),
        )
