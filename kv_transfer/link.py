"""The reader's connection to one source: one thread that all pulls from it share."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kv_transfer.channel import Channel, Poller, Waker, wait_readable
from kv_transfer.control import MAX_RENEWED, Frame, Ping, Renew
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity
from kv_transfer.hashing import HashThread
from kv_transfer.opening import Reader, open_channel, open_lane
from kv_transfer.pull import Pull, PullResult
from kv_transfer.pulls import Pulls
from kv_transfer.pulse import Pulse
from kv_transfer.transport import Lane
from wire.kv import FabricAddress


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the lease of a handle that is pulled later, or do so no more."""

    handle_id: bytes
    is_on: bool = True


class Link:
    """Opens a control channel and a lane, then turns until it breaks or is closed.

    Only its thread touches pulls, channel and lane, so a cancelled pull is fenced as soon as the
    thread has dropped it from the lane. Each submitted pull's on_done is called exactly once.
    """

    def __init__(
        self,
        reader: Reader,
        address: FabricAddress,
        source: Identity,
        on_end: Callable[[Pull, PullResult], None],
    ) -> None:
        self._reader = reader
        self._address = address
        self._source = source
        self._on_end = on_end
        self._inbox: deque[Pull | Hold | int] = deque()  # an int: a ticket to cancel
        self._held: dict[bytes, None] = {}  # handles whose pulls have not begun
        self._lock = threading.Lock()
        self._has_ended = False  # under the lock: no pull is taken any more
        self._is_closing = False
        self._waker = Waker()
        self._poller = Poller()
        self._channel: Channel | None = None
        self._lane: Lane | None = None
        self._pulls: Pulls | None = None
        self._hashing = HashThread(self._waker.wake)
        self._pulse = Pulse(reader.config.heartbeat_s)
        self._thread = threading.Thread(target=self._run, name="kv-link")

    @property
    def is_alive(self) -> bool:
        """Some on_done may still come."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def submit(self, pull: Pull) -> bool:
        """False when the link has ended."""
        return self._leave(pull)

    def hold(self, hold: Hold) -> bool:
        """False when the link has ended."""
        return self._leave(hold)

    def cancel(self, ticket: int) -> None:
        self._leave(ticket)

    def close(self) -> None:
        """Fails what is under way; the thread ends soon after."""
        self._is_closing = True
        self._waker.wake()

    def join(self) -> None:
        self._thread.join()

    def _leave(self, word: Pull | Hold | int) -> bool:
        with self._lock:
            if self._has_ended:
                return False
            self._inbox.append(word)
        self._waker.wake()
        return True

    def _run(self) -> None:
        end = TransferError(FailReason.CLOSED, "the importer was closed")
        try:
            reader, source = self._reader, self._source
            channel = self._channel = open_channel(reader, self._address)
            lane, layout = open_lane(reader, self._address, source, channel)
            self._lane = lane
            pulls = self._pulls = Pulls(
                reader, source, layout, channel, lane, self._hashing, self._on_end
            )
            while not self._is_closing:
                self._turn(channel, lane, pulls)
        except TransferError as error:
            end = error
        except Exception as error:  # the thread's edge: its pulls end with it
            self._reader.log.error("kv link failed", error=repr(error))
            end = TransferError(FailReason.TRANSPORT, repr(error))
        self._end(end)

    def _turn(self, channel: Channel, lane: Lane, pulls: Pulls) -> None:
        """Wait, hear, move, look at the time."""
        fds = [channel.fd, self._waker.fd] + ([lane.fd] if lane.fd >= 0 else [])
        readable = self._poller.wait(fds, self._wait_s(lane, pulls))
        if self._waker.fd in readable:
            self._waker.clear()
        if channel.fd in readable:
            self._pulse.heard()
            for frame in channel.receive():
                pulls.handle(frame)
        self._take_inbox(pulls)
        if lane.fd in readable or lane.wait_s() is not None:
            pulls.move()
        else:
            pulls.settle()
        self._beat(channel, pulls)
        pulls.check_deadlines()

    def _wait_s(self, lane: Lane, pulls: Pulls) -> float | None:
        limits = [lane.wait_s()]
        if pulls or self._held:
            now_s = self._reader.clock.now()
            limits += [pulls.wait_s(now_s), self._pulse.next_s(now_s)]
        return min((max(0.0, limit) for limit in limits if limit is not None), default=None)

    def _take_inbox(self, pulls: Pulls) -> None:
        while self._inbox:
            word = self._inbox.popleft()
            if isinstance(word, int):
                pulls.cancel(word)
                continue
            if not pulls and not self._held:
                self._pulse.begin(self._reader.clock.now())
            if isinstance(word, Hold):
                self._take_hold(word)
                continue
            self._held.pop(word.handle.handle_id, None)
            self._pulse.ask(self._reader.clock.now())
            pulls.begin(word)

    def _take_hold(self, hold: Hold) -> None:
        if hold.is_on:
            self._held[hold.handle_id] = None
        else:
            self._held.pop(hold.handle_id, None)

    def _beat(self, channel: Channel, pulls: Pulls) -> None:
        """Renews the leases and finds a source that hangs. Bytes of a lane are no sign of life: a
        stopped process's kernel goes on sending them, and one-sided reads need no process."""
        if not pulls and not self._held:
            self._pulse.heard()
            return
        now_s = self._reader.clock.now()
        if self._pulse.is_due(now_s):
            channel.send(Ping(0), *self._renewals())
        silence_s = self._pulse.silence_s(now_s)
        is_silent = silence_s > self._reader.config.dead_after_s
        # This process may have been the one that was held up: what came meanwhile counts.
        if is_silent and not wait_readable([channel.fd], 0.0):
            raise TransferError(FailReason.PEER_HUNG, f"the source is silent for {silence_s:.1f} s")

    def _renewals(self) -> list[Frame]:
        held = tuple(self._held)
        return [
            Renew(held[start : start + MAX_RENEWED]) for start in range(0, len(held), MAX_RENEWED)
        ]

    def _tell_of_end(self, error: TransferError) -> None:
        """A link that ends with pulls under way is worth a line; their results say the same."""
        num_pulls = len(self._pulls or ()) + sum(isinstance(word, Pull) for word in self._inbox)
        if num_pulls and error.reason is not FailReason.CLOSED:
            self._reader.log.warning(
                "kv link ended",
                source=self._source.worker_id,
                reason=error.reason,
                message=str(error),
                num_pulls=num_pulls,
            )

    def _end(self, error: TransferError) -> None:
        with self._lock:
            self._has_ended = True
        self._tell_of_end(error)
        self._hashing.close()
        if self._lane is not None:
            self._lane.close()
        if self._channel is not None:
            self._channel.close()
        self._waker.close()
        if error.reason is FailReason.CORRUPT:
            self._reader.quarantine.strike(self._source, self._reader.clock.now())
        if self._pulls is not None:
            self._pulls.fail_all(error)
        for word in self._inbox:
            if isinstance(word, Pull):
                self._on_end(word, word.failure(error.reason, str(error), ""))
