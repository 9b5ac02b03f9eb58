"""A thread that makes system calls in the place of the engine's thread."""

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Notifier:
    """Runs deferred calls in order, in a thread of its own.

    Waking a connection is a system call, which gives the interpreter lock away; the engine's
    thread would get it back only after the woken threads have had their turn, often milliseconds
    later. Leaving a call here costs it a microsecond.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kv-notify")

    def start(self) -> None:
        self._thread.start()

    def defer(self, call: Callable[[], None]) -> None:
        """`call` must be quick and raise nothing. It is forgotten after close."""
        self._calls.put(call)

    def close(self) -> None:
        """Returns once the thread has ended; safe to call twice and without start."""
        self._calls.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
