"""A thread that hashes what has arrived while its link moves the next piece."""

import queue
import threading
from collections.abc import Callable


class HashThread:
    """Of one link; started by the first job. A job is called on the thread, in order."""

    def __init__(self, on_done: Callable[[], None]) -> None:
        """on_done: called on the thread after each job."""
        self._on_done = on_done
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kv-hash")
            self._thread.start()
        self._jobs.put(job)

    def close(self) -> None:
        """Returns when the last job has ended: nothing is read any more."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            self._on_done()
