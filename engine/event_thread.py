"""A thread that calls back when a device has come to a point."""

import queue
import threading
from collections.abc import Callable

import torch

_Job = tuple[torch.cuda.Event | None, Callable[[], None]]


class EventThread:
    """Calls come in the order in which they were asked for."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def call(self, event: torch.cuda.Event | None, then: Callable[[], None]) -> None:
        """Has `then` called when the device has passed `event`; None: there is nothing to wait
        for but the calls before."""
        self._jobs.put((event, then))

    def close(self) -> None:
        """Ends behind its last call; safe to call twice."""
        if self.is_alive:
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            event, then = job
            if event is not None:
                event.synchronize()
            then()
