"""Server-sent events to any number of listeners; a slow one is cut, not waited for."""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from control_plane.api.shapes import Shape

MAX_LISTENERS = 64
_MAX_WAITING = 256
_KEEP_ALIVE_S = 15.0


class TooManyListeners(Exception):
    """Every place is taken."""


class EventHub:
    """Fans events out. Whoever publishes does not wait.

    A listener that does not read has 256 events to fall behind, then its stream ends, and it
    connects again for a whole status.
    """

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[bytes | None]] = set()

    @property
    def is_heard(self) -> bool:
        return bool(self._queues)

    def publish(self, name: str, shape: Shape) -> None:
        frame = event_bytes(name, shape)
        for queue in tuple(self._queues):
            if queue.qsize() >= _MAX_WAITING:
                self._end(queue)
            else:
                queue.put_nowait(frame)

    def listen(self, first: bytes) -> AsyncIterator[bytes]:
        """`first`, then every event from now on. Raises TooManyListeners."""
        if len(self._queues) >= MAX_LISTENERS:
            raise TooManyListeners(f"{MAX_LISTENERS} listeners are connected")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        queue.put_nowait(first)
        self._queues.add(queue)
        return self._frames(queue)

    def close(self) -> None:
        """Ends every stream after what waits in it."""
        for queue in tuple(self._queues):
            self._end(queue)

    def _end(self, queue: "asyncio.Queue[bytes | None]") -> None:
        self._queues.discard(queue)
        queue.put_nowait(None)

    async def _frames(self, queue: "asyncio.Queue[bytes | None]") -> AsyncIterator[bytes]:
        try:
            while True:
                try:
                    frame = await asyncio.wait_for(queue.get(), _KEEP_ALIVE_S)
                except TimeoutError:
                    frame = b": still here\n\n"
                if frame is None:
                    return
                yield frame
        finally:
            self._queues.discard(queue)


def event_bytes(name: str, shape: Shape) -> bytes:
    """One event as it goes over the wire."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(shape) + b"\n\n"
