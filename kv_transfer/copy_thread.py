"""A thread that sees copies end, one behind the other, and tells who waits for them."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from kv_transfer.channel import Waker
from kv_transfer.errors import TransferError

_Copy = TypeVar("_Copy")


class CopyThread(Generic[_Copy]):
    """What a kv_transfer.device.CopyStream tells of copies that were started; one thread asks."""

    def __init__(self, end: Callable[[_Copy], None]) -> None:
        """end: called on the thread for each copy, in order; returns when it has ended, or raises
        TransferError, which every later question raises too."""
        self._end = end
        self._waker = Waker()
        self._copies: queue.SimpleQueue[_Copy | None] = queue.SimpleQueue()
        self._num_started = 0
        self._num_done = 0
        self._failure: TransferError | None = None
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kv-copies")
        self._thread.start()

    @property
    def fd(self) -> int:
        return self._waker.fd

    def add(self, copy: _Copy) -> int:
        self._num_started += 1
        self._copies.put(copy)
        return self._num_started

    def num_done(self) -> int:
        self._waker.clear()
        self._raise_failure()
        return self._num_done

    def wait(self, number: int) -> None:
        with self._moved:
            self._moved.wait_for(lambda: self._num_done >= number or self._failure is not None)
        self._raise_failure()

    def close(self) -> None:
        """Returns behind the last copy's end."""
        self._copies.put(None)
        self._thread.join()
        self._waker.close()

    def _run(self) -> None:
        while (copy := self._copies.get()) is not None:
            failure = self._failure_of(copy)
            with self._moved:
                self._num_done += 1
                self._failure = self._failure or failure
                self._moved.notify_all()
            self._waker.wake()

    def _failure_of(self, copy: _Copy) -> TransferError | None:
        try:
            self._end(copy)
        except TransferError as error:
            return error
        return None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
