"""A router's session to a simulated worker: frames with a delay, and the ends that they come to."""

from collections.abc import Callable
from typing import Protocol

from router.config import RouterConfig
from router.stream import StreamOwner
from simulate.event_loop import EventLoop
from wire.messages import ClientFrame, WorkerFrame


class Peer(Protocol):
    """The worker's side of a session."""

    @property
    def is_reachable(self) -> bool:
        """Its process exists."""

    def joined(self, stream: "SimulatedStream") -> None:
        """A session has begun."""

    def left(self, stream: "SimulatedStream") -> None:
        """The session has ended, and all legs of it."""

    def take(self, frame: ClientFrame) -> None: ...


class SimulatedStream:
    """What router.stream.WorkerStream is to a live worker, without gRPC.

    find: the peer at an address. Each session has a number; what belongs to an ended one is lost.
    """

    def __init__(
        self,
        address: str,
        config: RouterConfig,
        owner: StreamOwner,
        loop: EventLoop,
        hop_s: float,
        find: Callable[[str], Peer | None],
    ) -> None:
        self._address = address
        self._config = config
        self._owner = owner
        self._loop = loop
        self._hop_s = hop_s
        self._find = find
        self._number = 0
        self._peer: Peer | None = None
        self._backoff_s = config.reconnect_min_s
        self._is_closed = False

    def open(self) -> None:
        if not self._is_closed:
            self._owner.opening()
            self._number += 1
            # The first session is there when the simulation begins.
            delay_s = self._hop_s if self._loop.now() else 0.0
            self._loop.after(delay_s, self.connect, self._number)

    def send(self, frame: ClientFrame) -> None:
        self._loop.after(self._hop_s, self._pass, self._number, frame)

    def works(self) -> None:
        self._backoff_s = self._config.reconnect_min_s

    def break_off(self) -> None:
        self._leave()
        self._again()

    def close(self) -> None:
        self._is_closed = True
        self._leave()

    async def wait_closed(self) -> None:
        """Nothing of a simulated session outlives close()."""

    def tell(self, frame: WorkerFrame) -> None:
        """From the worker."""
        self._loop.after(self._hop_s, self.arrive, self._number, frame)

    @property
    def number(self) -> int:
        return self._number

    def arrive(self, number: int, frame: WorkerFrame) -> None:
        if number == self._number and not self._is_closed:
            self._owner.frame_came(frame)

    def lost(self, reason: str) -> None:
        """The worker's end of the connection broke."""
        self._loop.after(self._hop_s, self._lose, self._number, reason)

    def connect(self, number: int) -> None:
        if number != self._number or self._is_closed:
            return
        peer = self._find(self._address)
        if peer is None or not peer.is_reachable:
            self._lose(number, f"UNAVAILABLE: {self._address} refuses connections")
            return
        self._peer = peer
        peer.joined(self)

    def _pass(self, number: int, frame: ClientFrame) -> None:
        if number == self._number and self._peer is not None:
            self._peer.take(frame)

    def _lose(self, number: int, reason: str) -> None:
        if number == self._number and not self._is_closed:
            self._peer = None
            self._owner.ended(reason)
            self._again()

    def _leave(self) -> None:
        self._number += 1
        if self._peer is not None:
            self._loop.after(self._hop_s, self._peer.left, self)
            self._peer = None

    def _again(self) -> None:
        self._number += 1
        self._loop.after(self._backoff_s, self.open)
        self._backoff_s = min(2 * self._backoff_s, self._config.reconnect_max_s)
