"""The reader's connection to one source: one thread that all pulls from it share."""

import threading
from collections import deque
from collections.abc import Callable

from kv_transfer.channel import Channel, Waker, wait_readable
from kv_transfer.control import (
    Attached,
    Complete,
    Digests,
    Ended,
    Frame,
    Ping,
    Pong,
    Ready,
    Refused,
    Release,
    Released,
)
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import Identity
from kv_transfer.opening import Reader, open_channel, open_lane
from kv_transfer.pace import AS_IS, Pace, candidates
from kv_transfer.plan import Piece, Watermark
from kv_transfer.pull import Pull, PullResult, PullState
from kv_transfer.pulse import Pulse
from kv_transfer.transport import Lane
from wire.kv import FabricAddress, KVLayout

_OF_A_PULL = Attached | Ready | Digests | Complete | Ended | Refused | Released


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
        self._pulls: dict[int, Pull] = {}
        self._inbox: deque[Pull | int] = deque()  # pulls to begin, tickets to cancel
        self._lock = threading.Lock()
        self._has_ended = False  # under the lock: no pull is taken any more
        self._is_closing = False
        self._waker = Waker()
        self._channel: Channel | None = None
        self._lane: Lane | None = None
        self._source_layout: KVLayout | None = None
        self._pace = Pace()
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

    def cancel(self, ticket: int) -> None:
        self._leave(ticket)

    def close(self) -> None:
        """Fails what is under way; the thread ends soon after."""
        self._is_closing = True
        self._waker.wake()

    def join(self) -> None:
        self._thread.join()

    def _leave(self, word: Pull | int) -> bool:
        with self._lock:
            if self._has_ended:
                return False
            self._inbox.append(word)
        self._waker.wake()
        return True

    def _run(self) -> None:
        end = TransferError(FailReason.CLOSED, "the importer was closed")
        try:
            self._channel = open_channel(self._reader, self._address)
            self._lane, self._source_layout = open_lane(
                self._reader, self._address, self._source, self._channel
            )
            channel, lane = self._channel, self._lane
            while not self._is_closing:
                self._turn(channel, lane)
        except TransferError as error:
            end = error
        except Exception as error:
            self._reader.log.error("kv link failed", error=repr(error))
            end = TransferError(FailReason.TRANSPORT, repr(error))
        self._end(end)

    def _turn(self, channel: Channel, lane: Lane) -> None:
        """Wait, hear, move, look at the time."""
        fds = [channel.fd, self._waker.fd] + ([lane.fd] if lane.fd >= 0 else [])
        readable = wait_readable(fds, self._wait_s(lane))
        if self._waker.fd in readable:
            self._waker.clear()
        if channel.fd in readable:
            self._pulse.heard()
            for frame in channel.receive():
                self._handle(frame, channel, lane)
        self._take_inbox(channel, lane)
        self._move(lane)
        for pull in list(self._pulls.values()):
            self._settle(pull, channel)
        self._beat(channel)
        self._check_deadlines(channel, lane)

    def _wait_s(self, lane: Lane) -> float | None:
        if not self._pulls:
            return lane.wait_s()
        if any(pull.has_to_hash for pull in self._pulls.values()):
            return 0.0
        now_s = self._reader.clock.now()
        limits = [self._pulse.next_s(now_s)]
        limits += [
            pull.deadline_s - now_s for pull in self._pulls.values() if pull.deadline_s is not None
        ]
        if (lane_s := lane.wait_s()) is not None:
            limits.append(lane_s)
        return max(0.0, min(limits))

    def _take_inbox(self, channel: Channel, lane: Lane) -> None:
        while self._inbox:
            word = self._inbox.popleft()
            if isinstance(word, Pull):
                self._begin(word, channel, lane)
            elif word in self._pulls:
                pull = self._pulls[word]
                self._give_up(pull, FailReason.CANCELLED, "cancelled", channel, lane)

    def _begin(self, pull: Pull, channel: Channel, lane: Lane) -> None:
        now_s = self._reader.clock.now()
        if not self._pulls:
            self._pulse.begin(now_s)
        assert self._source_layout is not None
        self._pulls[pull.ticket] = pull
        pull.wire_format = self._wire_format(pull, lane)
        pull.bind(self._source_layout, self._reader.memory.buffer)
        pull.deadline_s = now_s + self._reader.config.slack_s
        self._pulse.ask(now_s)
        channel.send(pull.attach_frame())
        left_s = self._reader.quarantine.left_s(self._source, now_s)
        if left_s > 0.0:
            text = f"{self._source.worker_id}'s blocks were corrupt; not read for {left_s:.0f} s"
            self._give_up(pull, FailReason.QUARANTINED, text, channel, lane)
        elif pull.lacks_heads:
            text = f"{self._source.worker_id} lacks KV heads: {self._source_layout.signature}"
            self._give_up(pull, FailReason.LAYOUT_MISMATCH, text, channel, lane)

    def _handle(self, frame: Frame, channel: Channel, lane: Lane) -> None:
        if isinstance(frame, Pong):
            return
        if not isinstance(frame, _OF_A_PULL):
            raise TransferError(FailReason.MALFORMED, f"unexpected {type(frame).__name__}")
        pull = self._pulls.get(frame.ticket)
        if pull is None:
            return  # cancelled or given up while this was under way
        match frame:
            case Attached():
                self._attached(pull, frame, channel, lane)
            case Ready():
                mark = Watermark(frame.full_tokens, frame.partial_tokens, frame.partial_layers)
                self._ready(pull, mark, lane)
            case Digests():
                pull.verification.told(frame.regions, frame.values)
            case Complete():
                pull.output_tokens = frame.output_tokens
                pull.completed_s = self._reader.clock.now()
                pull.completed_bytes = pull.moved_bytes
            case Ended() | Refused():
                self._give_up(pull, frame.reason, frame.message, channel, lane)
            case Released():
                self._released(pull, frame.was_valid)

    def _attached(self, pull: Pull, frame: Attached, channel: Channel, lane: Lane) -> None:
        if not pull.attach(frame.num_tokens, frame.block_ids, self._reader.clock.now()):
            text = "the source published another prompt under this handle"
            self._give_up(pull, FailReason.MALFORMED, text, channel, lane)
        elif lane.reads_ahead and pull.total_bytes:
            lane.post(pull.read(pull.piece))

    def _ready(self, pull: Pull, mark: Watermark, lane: Lane) -> None:
        config, now_s = self._reader.config, self._reader.clock.now()
        new_bytes = pull.see(mark)
        for other in self._pulls.values():
            if other is not pull and other.owed_bytes and other.deadline_s is not None:
                other.deadline_s += config.deadline_s(new_bytes) - config.slack_s
        if pull.owed_bytes:
            owed_bytes = sum(other.owed_bytes for other in self._pulls.values())
            pull.deadline_s = now_s + config.deadline_s(owed_bytes)
        if lane.reads_ahead:
            return
        while pull.total_bytes and (piece := self._next_piece(pull)) is not None:
            lane.post(pull.read(piece))

    def _next_piece(self, pull: Pull) -> Piece | None:
        most = max(1, self._reader.config.piece_bytes // pull.mapping.source.region_bytes)
        return pull.cursor.take(pull.ready, most)

    def _move(self, lane: Lane) -> None:
        for moved in lane.progress():
            self._pulse.heard()
            pull = self._pulls.get(moved.ticket)
            if pull is not None:
                pull.arrive(moved)

    def _settle(self, pull: Pull, channel: Channel) -> None:
        """Hashes something of what has arrived; releases what is whole when both sides have."""
        if pull.has_to_hash:
            pull.verification.hash_one()
        if pull.state is not PullState.READING or not pull.is_whole:
            return
        now_s = self._reader.clock.now()
        if pull.verification.is_done:
            pull.state, pull.settled_s = PullState.RELEASING, now_s
            pull.deadline_s = now_s + self._reader.config.slack_s
            channel.send(Release(pull.ticket))
        elif pull.deadline_s is None:
            pull.deadline_s = now_s + self._reader.config.slack_s  # for the source's digests

    def _released(self, pull: Pull, was_valid: bool) -> None:
        name = self._lane.name if self._lane is not None else ""
        if pull.state is not PullState.RELEASING or not was_valid:
            text = "the lease ended while the blocks were read"
            self._finish(pull, pull.failure(FailReason.LEASE_EXPIRED, text, name))
        elif (region := pull.verification.bad_region()) is not None:
            self._finish(pull, self._corrupt(pull, region, name))
        else:
            exposed_bytes = pull.total_bytes - pull.completed_bytes
            self._pace.record(pull.wire_format, pull.total_bytes, exposed_bytes, pull.exposed_s)
            self._finish(pull, pull.success(name))

    def _wire_format(self, pull: Pull, lane: Lane) -> str:
        """Only sockets carry anything else than the pool's own bytes."""
        setting, layout = self._reader.config.wire_format, self._reader.layout
        names = candidates(setting, layout.dtype)
        if lane.name != "tcp" or not names:
            return AS_IS
        num_bytes = (len(pull.target_blocks) - pull.num_skip_blocks) * layout.block_bytes
        return setting if setting in names else self._pace.choose(num_bytes, names)

    def _corrupt(self, pull: Pull, region: int, name: str) -> PullResult:
        """The lease held, so the source's blocks are what it hashed, and what came is not."""
        source = self._source
        layer, index = divmod(region, max(1, len(pull.source_blocks)))
        text = f"block {index} of layer {layer} is not what {source.worker_id} holds"
        self._reader.log.error("kv corrupt", transport=name, source=source.worker_id, message=text)
        if self._reader.quarantine.strike(source, self._reader.clock.now()):
            self._reader.log.error("kv source quarantined", source=source.worker_id)
        return pull.failure(FailReason.CORRUPT, text, name)

    def _beat(self, channel: Channel) -> None:
        """Renews the leases and finds a source that hangs."""
        if not self._pulls:
            self._pulse.heard()
            return
        now_s = self._reader.clock.now()
        if self._pulse.is_due(now_s):
            channel.send(Ping(0))
        silence_s = self._pulse.silence_s(now_s)
        if silence_s > self._reader.config.dead_after_s:
            raise TransferError(FailReason.PEER_HUNG, f"the source is silent for {silence_s:.1f} s")

    def _check_deadlines(self, channel: Channel, lane: Lane) -> None:
        now_s = self._reader.clock.now()
        for pull in list(self._pulls.values()):
            if pull.deadline_s is not None and now_s > pull.deadline_s:
                text = f"{pull.owed_bytes} bytes did not come in time ({pull.state.value})"
                self._give_up(pull, FailReason.TIMEOUT, text, channel, lane)

    def _give_up(
        self, pull: Pull, reason: FailReason, error: str, channel: Channel, lane: Lane
    ) -> None:
        """Fences the pull, lets the source have its blocks back, and ends it."""
        lane.drop(pull.ticket)
        self._finish(pull, pull.failure(reason, error, lane.name))
        channel.send(Release(pull.ticket))

    def _finish(self, pull: Pull, result: PullResult) -> None:
        del self._pulls[pull.ticket]
        self._on_end(pull, result)

    def _end(self, error: TransferError) -> None:
        with self._lock:
            self._has_ended = True
        name = self._lane.name if self._lane is not None else ""
        if self._lane is not None:
            self._lane.close()
        if self._channel is not None:
            self._channel.close()
        self._waker.close()
        waiting = [word for word in self._inbox if isinstance(word, Pull)]
        for pull in [*self._pulls.values(), *waiting]:
            self._on_end(pull, pull.failure(error.reason, str(error), name))
        self._pulls.clear()
