"""The source's side of the transport ucx: a port and a thread for each reader."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from kv_transfer.channel import Channel, Poller
from kv_transfer.control import Meet, Pong, Read
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.exports import Export
from kv_transfer.mapping import Extent, source_extents
from kv_transfer.plan import Piece, ready_blocks
from kv_transfer.sessions import Source, checked_window
from kv_transfer.transports.staging import Staging
from kv_transfer.transports.ucx import MAX_MESSAGES, NUDGE_S
from kv_transfer.transports.ucx_port import OpenPort, UcxPort, UcxRequest, progress_until
from runtime.clock import Clock


class UcxService:
    """Opens a port for each proved reader and answers its reads."""

    def __init__(self, open_port: OpenPort, source: Source, devices: str, clock: Clock) -> None:
        self._open_port = open_port
        self._source = source
        self._devices = devices
        self._clock = clock

    def serve(self, channel: Channel) -> None:
        """Until the connection ends, which raises TransferError."""
        meet = channel.receive_one(self._source.config.connect_s)
        if not isinstance(meet, Meet):
            raise TransferError(FailReason.MALFORMED, "the peer names no port")
        port = self._open_port(self._devices, meet.address)
        session = UcxSession(channel, port, self._source, self._clock)
        try:
            channel.send(Pong(0))
            session.run()
        finally:
            session.close()

    def close(self) -> None:
        """Ports end with their connections."""


@dataclass(slots=True, eq=False)
class _Sending:
    """A message under way; the export stays pinned. staging: None when sent from the pool."""

    export: Export | None
    staging: Staging | None
    request: UcxRequest


class UcxSession:
    """Answers each Read, in turn, with one message of the size that the reader expects."""

    def __init__(self, channel: Channel, port: UcxPort, source: Source, clock: Clock) -> None:
        self._channel = channel
        self._port = port
        self._source = source
        self._clock = clock
        self._pool = source.memory.address
        self._reads: deque[Read] = deque()
        self._sending: deque[_Sending] = deque()
        self._free: list[Staging] = []
        self._poller = Poller()
        self._fds = [channel.fd, port.fd]
        self._moved_s = 0.0  # when a message ended, or the first of several began

    def run(self) -> None:
        """Until the connection ends, which raises TransferError."""
        while True:
            self._begin()
            progress_until(self._has_to_do, self._port, self._clock)
            has_ended = self._finish()
            is_idle = not has_ended and not self._can_begin and self._port.rest()
            readable = self._poller.wait(self._fds, self._wait_s() if is_idle else 0.0)
            if self._channel.fd in readable:
                self._reads.extend(self._received())
            self._check_stall()

    def close(self) -> None:
        """The port is closed first: until then UCX may read what is pinned."""
        self._port.close()
        for sending in self._sending:
            self._unpin(sending)
        self._sending.clear()

    @property
    def _can_begin(self) -> bool:
        return bool(self._reads) and len(self._sending) < MAX_MESSAGES

    def _has_to_do(self) -> bool:
        """Something else than to wait for the messages under way."""
        return self._can_begin or not self._sending or self._sending[0].request.is_done()

    def _received(self) -> Sequence[Read]:
        frames = self._channel.receive()
        reads = [frame for frame in frames if isinstance(frame, Read)]
        if len(reads) != len(frames):
            raise TransferError(FailReason.MALFORMED, "the peer sent something else than reads")
        return reads

    def _begin(self) -> None:
        """One message, so that what is under way moves on while the next ones are packed."""
        if not self._can_begin:
            return
        if not self._sending:
            self._moved_s = self._clock.now()
        read = self._reads.popleft()
        export = self._source.exports.pin_attached(read.handle_id)
        try:
            self._sending.append(self._send(read, export))
        except TransferError:
            if export is not None:
                self._source.exports.unpin(export.handle_id)
            raise

    def _send(self, read: Read, export: Export | None) -> _Sending:
        """The piece, or as many zeros where the handle has ended, for the reader waits for a
        message; that the handle has ended is told by the control channel."""
        extents = self._extents(read, export)
        num_bytes = sum(size for _, size in extents)
        if export is not None and len(extents) == 1:
            start = extents[0][0]
            view, staging = self._source.memory.buffer[start : start + num_bytes], None
        else:
            staging = self._staging(num_bytes)
            view = staging.view(num_bytes)
            if export is None:
                staging.clear(num_bytes)
            else:
                staging.pack(self._pool, extents)
        return _Sending(export, staging, self._port.send(view, read.ticket))

    def _extents(self, read: Read, export: Export | None) -> list[Extent]:
        """Raises TransferError (MALFORMED) for what the reader may not read."""
        layout = self._source.layout
        piece = Piece(read.first_layer, read.end_layer, read.first_index, read.end_index)
        num_blocks = layout.num_blocks if export is None else len(export.block_ids)
        if not piece.fits(layout.num_layers, num_blocks):
            raise TransferError(FailReason.MALFORMED, "a read outside of the published blocks")
        if export is None:
            window = checked_window(read.window, layout, num_blocks * layout.block_size)
            return list(source_extents(piece, layout, range(num_blocks), window))
        ready = ready_blocks(export.watermark, layout, export.num_tokens)
        if min(ready[piece.first_layer : piece.end_layer]) < piece.end_index:
            raise TransferError(FailReason.MALFORMED, "a read ahead of prefill")
        window = checked_window(read.window, layout, export.num_tokens)
        return list(source_extents(piece, layout, export.block_ids, window))

    def _staging(self, num_bytes: int) -> Staging:
        """Raises TransferError (MALFORMED) for a piece larger than readers ask for."""
        most = max(self._source.config.piece_bytes, self._source.layout.region_bytes)
        if num_bytes > most:
            raise TransferError(FailReason.MALFORMED, f"a read of {num_bytes} bytes is too long")
        return self._free.pop() if self._free else Staging(most)

    def _finish(self) -> bool:
        """Takes back what the messages that have ended held; whether any had."""
        has_ended = False
        while self._sending and self._sending[0].request.is_done():
            sending = self._sending.popleft()
            self._unpin(sending)
            if sending.staging is not None:
                self._free.append(sending.staging)
            has_ended = True
            self._moved_s = self._clock.now()
        return has_ended

    def _unpin(self, sending: _Sending) -> None:
        if sending.export is not None:
            self._source.exports.unpin(sending.export.handle_id)

    def _wait_s(self) -> float | None:
        return NUDGE_S if self._sending else None

    def _check_stall(self) -> None:
        """A reader that takes nothing must not hold blocks for longer than a lease."""
        if self._sending and self._clock.now() - self._moved_s > self._source.config.stall_s:
            raise TransferError(FailReason.PEER_HUNG, "the reader takes no bytes")
