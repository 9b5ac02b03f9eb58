"""The one way to the engine's thread."""

import queue

from worker.commands import Command


class Stop:
    """Ends the engine's loop, behind every earlier command."""


class Inbox:
    """Commands in the order in which they were posted; `post` is safe from any thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Command | Stop] = queue.SimpleQueue()

    def post(self, command: Command) -> None:
        self._queue.put(command)

    def stop(self) -> None:
        self._queue.put(Stop())

    def take(self, block: bool) -> Command | Stop | None:
        """The next command; None when there is none and `block` is False."""
        try:
            return self._queue.get(block=block)
        except queue.Empty:
            return None

    @property
    def is_empty(self) -> bool:
        return self._queue.empty()
