"""One of several connections to a source, and the thread that receives from it."""

import threading
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from kv_transfer.channel import Poller, Waker
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.transport import Moved, ReadOp
from kv_transfer.transports.tcp import TcpLane


@dataclass(frozen=True, slots=True)
class Fence:
    """No byte of these reads is written behind it."""

    tickets: Set[int]
    is_up: threading.Event = field(default_factory=threading.Event)


class Stripe:
    """Owns a lane, which its thread alone uses: the copy out of one socket takes a core, which
    gives the interpreter lock away meanwhile. All methods are for the link's thread."""

    def __init__(self, lane: TcpLane, on_moved: Callable[[], None]) -> None:
        """on_moved: called on the stripe's thread when `take` has something to give."""
        self._lane = lane
        self._on_moved = on_moved
        self._inbox: deque[ReadOp | Fence] = deque()
        self._moved: deque[Moved] = deque()
        self._lock = threading.Lock()
        self._end: TransferError | None = None  # under the lock: nothing is received any more
        self._is_closing = False
        self._waker = Waker()
        self._poller = Poller()
        self._thread = threading.Thread(target=self._run, name="kv-stripe")
        self._thread.start()

    def post(self, read: ReadOp) -> None:
        self._leave(read)

    def drop(self, tickets: Set[int]) -> threading.Event:
        """Set once the fence is up: within the time that the lane's next move takes."""
        fence = Fence(tickets)
        if not self._leave(fence):
            fence.is_up.set()
        return fence.is_up

    def take(self) -> list[Moved]:
        """What arrived. Raises TransferError when the connection has ended."""
        with self._lock:
            end = self._end
        if end is not None:
            raise end
        return [self._moved.popleft() for _ in range(len(self._moved))]

    def begin_close(self) -> None:
        self._is_closing = True
        self._waker.wake()

    def close(self) -> None:
        """A fence for all reads."""
        self.begin_close()
        self._thread.join()
        self._lane.close()
        self._waker.close()

    def _leave(self, word: ReadOp | Fence) -> bool:
        with self._lock:
            if self._end is not None:
                return False
            self._inbox.append(word)
        self._waker.wake()
        return True

    def _run(self) -> None:
        end = TransferError(FailReason.CLOSED, "the lane was closed")
        try:
            while not self._is_closing:
                self._turn()
        except TransferError as error:
            end = error
        except Exception as error:  # else nobody would learn of it
            end = TransferError(FailReason.TRANSPORT, repr(error))
        self._end_with(end)

    def _turn(self) -> None:
        readable = self._poller.wait([self._lane.fd, self._waker.fd], self._lane.wait_s())
        if self._waker.fd in readable:
            self._waker.clear()
        while self._inbox:
            self._heed(self._inbox.popleft())
        if moved := self._lane.progress():
            self._moved.extend(moved)
            self._on_moved()

    def _heed(self, word: ReadOp | Fence) -> None:
        if isinstance(word, ReadOp):
            self._lane.post(word)
            return
        for ticket in word.tickets:
            self._lane.drop(ticket)
        word.is_up.set()

    def _end_with(self, error: TransferError) -> None:
        with self._lock:
            self._end = error
            left = list(self._inbox)
        for word in left:
            if isinstance(word, Fence):
                word.is_up.set()
        self._on_moved()
