"""What entered and left the prefix cache, as the router is told."""

from collections.abc import Iterable

from wire.messages import BlockEvent, BlockSnapshot


class BlockLog:
    """Collects changes between two events; an event holds the net change, removals first."""

    def __init__(self) -> None:
        self._sequence_number = 0
        self._stored: dict[int, None] = {}  # ordered sets: parents stay before their children
        self._removed: dict[int, None] = {}

    def store(self, block_hash: int) -> None:
        self._stored[block_hash] = None

    def remove(self, block_hash: int) -> None:
        if block_hash in self._stored:
            del self._stored[block_hash]
        else:
            self._removed[block_hash] = None

    def take(self) -> BlockEvent | None:
        """The changes since the last event, or None when there are none."""
        if not self._stored and not self._removed:
            return None
        self._sequence_number += 1
        event = BlockEvent(self._sequence_number, tuple(self._stored), tuple(self._removed))
        self._stored, self._removed = {}, {}
        return event

    def snapshot(self, cached: Iterable[int]) -> BlockSnapshot:
        """The cache as of the last event, given what it holds at this moment."""
        before = dict.fromkeys(self._removed)
        before.update((h, None) for h in cached if h not in self._stored)
        return BlockSnapshot(self._sequence_number, tuple(before))
