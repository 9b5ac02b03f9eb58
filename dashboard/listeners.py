"""Server-sent events to the browsers: the newest figures, and none kept for a slow reader."""

import asyncio

import msgspec

Frames = asyncio.Queue[bytes | None]
_MAX_WAITING = 64


class Listeners:
    """Fans frames out. A listener that falls behind is ended; it connects again by itself."""

    def __init__(self) -> None:
        self._queues: set[Frames] = set()
        self._last: dict[str, bytes] = {}

    @property
    def is_heard(self) -> bool:
        return bool(self._queues)

    def join(self) -> Frames:
        """A queue that begins with the newest frame of each name; None ends it."""
        queue: Frames = asyncio.Queue()
        for frame in self._last.values():
            queue.put_nowait(frame)
        self._queues.add(queue)
        return queue

    def leave(self, queue: Frames) -> None:
        self._queues.discard(queue)

    def publish(self, name: str, body: msgspec.Struct) -> None:
        """Tells everybody, unless it is what they heard last."""
        frame = b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"
        if self._last.get(name) == frame:
            return
        self._last[name] = frame
        for queue in tuple(self._queues):
            self.put(queue, frame)

    def put(self, queue: Frames, frame: bytes) -> None:
        """Hands one listener a frame of its own."""
        if queue.qsize() >= _MAX_WAITING:
            self._end(queue)
        elif queue in self._queues:
            queue.put_nowait(frame)

    def end(self, queue: Frames) -> None:
        """Ends one stream after what waits in it."""
        if queue in self._queues:
            self._end(queue)

    def close(self) -> None:
        for queue in tuple(self._queues):
            self._end(queue)

    def check_integrity(self) -> None:
        """Nobody listens any more: every queue was left."""
        assert not self._queues, len(self._queues)

    def _end(self, queue: Frames) -> None:
        self._queues.discard(queue)
        queue.put_nowait(None)
