"""State that ends with this process; the default."""

import asyncio
from collections import deque

from control_plane.state.store import Entry, Incoming, OlderTerm, Outgoing, StandingConflict
from wire.cluster import WorkerBeat

_MAX_ENTRIES = 1500


class MemoryHeld:
    """What several `MemoryStore`s in one process share."""

    def __init__(self) -> None:
        self.standing = b""
        self.version = 0
        self.token = 0
        self.num_entries = 0
        self.entries: deque[Entry] = deque(maxlen=_MAX_ENTRIES)
        self.beats: dict[str, WorkerBeat] = {}


class MemoryStore:
    """A `StateStore`. Records of workers do not run out: their registry ends with them."""

    name = "memory"

    def __init__(self, held: MemoryHeld | None = None) -> None:
        self._held = held or MemoryHeld()
        self._num_read = 0

    async def exchange(self, outgoing: Outgoing) -> Incoming:
        held = self._held
        held.entries.extend(outgoing.entries)
        held.num_entries += len(outgoing.entries)
        held.beats |= {beat.info.worker_id: beat for beat in outgoing.workers}
        for worker_id in outgoing.gone:
            held.beats.pop(worker_id, None)
        num_new = min(len(held.entries), held.num_entries - self._num_read)
        self._num_read = held.num_entries
        new = tuple(held.entries)[len(held.entries) - num_new :]
        return Incoming(held.standing, held.version, new)

    async def set_standing(self, content: bytes, seen: int, version: int, token: int) -> None:
        held = self._held
        if token < held.token:
            raise OlderTerm
        if seen != held.version:
            raise StandingConflict
        held.standing, held.version, held.token = content, version, token

    async def workers(self) -> tuple[WorkerBeat, ...]:
        return tuple(self._held.beats.values())

    async def hint(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def close(self) -> None:
        """There is nothing to end."""
