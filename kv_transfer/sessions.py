"""The source's side of a connection: one thread each, started by kv_transfer.server."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kv_transfer.channel import Channel, Waker, wait_readable
from kv_transfer.config import TransferConfig
from kv_transfer.control import (
    Attach,
    Attached,
    Complete,
    Digests,
    Ended,
    Frame,
    Ping,
    Pong,
    Probe,
    Probed,
    Read,
    Ready,
    Refused,
    Release,
    Released,
)
from kv_transfer.digests import MAX_DIGESTS, DigestWalk, RegionHasher, Sample
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.exports import Export, ExportTable
from kv_transfer.formats import FORMATS, WireFormat, seal
from kv_transfer.mapping import Extent, Window, region_extents, source_extents
from kv_transfer.memory import KVMemory
from kv_transfer.pace import AS_IS
from kv_transfer.plan import Cursor, Piece, Watermark, ready_blocks
from kv_transfer.transports.tcp import HEADER, send_views
from wire.kv import KVLayout


@dataclass(frozen=True, slots=True)
class Source:
    """What every session serves from. probe_blocks: hold no request's KV, ever."""

    layout: KVLayout
    memory: KVMemory
    exports: ExportTable
    config: TransferConfig
    probe_blocks: tuple[int, ...] = ()


@dataclass(slots=True)
class _Reader:
    """One attached export and what its reader has been told."""

    export: Export
    walk: DigestWalk
    told: Watermark = Watermark()
    knows_end: bool = False
    owes_digests: bool = True


class _Session:
    """An exports.Listener with a thread's loop. `stop` may come from any thread."""

    def __init__(self, channel: Channel, source: Source) -> None:
        self._channel = channel
        self._source = source
        self._waker = Waker()
        self._endings: deque[tuple[bytes, FailReason, str]] = deque()

    def wake(self) -> None:
        self._waker.wake()

    def ended(self, handle_id: bytes, reason: FailReason, message: str) -> None:
        self._endings.append((handle_id, reason, message))
        self._waker.wake()

    def close(self) -> None:
        self._waker.close()

    def _wait(self, timeout_s: float | None = None) -> Sequence[Frame]:
        """Frames that came, none when something else did."""
        readable = wait_readable([self._channel.fd, self._waker.fd], timeout_s)
        if self._waker.fd in readable:
            self._waker.clear()
        return self._channel.receive() if self._channel.fd in readable else ()


class ControlSession(_Session):
    """Attaches, tells the watermark, takes releases. When it ends, so do its exports."""

    def __init__(self, channel: Channel, source: Source) -> None:
        super().__init__(channel, source)
        self._readers: dict[int, _Reader] = {}
        self._to_send: list[Frame] = []  # in this turn of the loop
        regions = max(1, source.config.piece_bytes // source.layout.region_bytes)
        self._max_digests = min(regions, MAX_DIGESTS)

    def run(self) -> None:
        """Until the connection ends, which raises TransferError."""
        try:
            while True:
                is_behind = any(reader.owes_digests for reader in self._readers.values())
                for frame in self._wait(0.0 if is_behind else None):
                    self._handle(frame)
                self._tell_endings()
                for ticket, reader in self._readers.items():
                    self._tell(ticket, reader)
                self._flush()
                for ticket, reader in self._readers.items():
                    self._tell_digests(ticket, reader)
                self._flush()
        finally:
            for reader in self._readers.values():
                self._source.exports.release(reader.export.handle_id)

    def _handle(self, frame: Frame) -> None:
        match frame:
            case Attach():
                self._attach(frame)
            case Release():
                reader = self._readers.pop(frame.ticket, None)
                exports = self._source.exports
                was_valid = reader is not None and exports.release(reader.export.handle_id)
                self._to_send.append(Released(frame.ticket, was_valid))
            case Ping():
                self._source.exports.renew([r.export.handle_id for r in self._readers.values()])
                self._to_send.append(Pong(frame.number))
            case Probe():
                self._to_send.append(self._probe(frame))
            case _:
                raise TransferError(FailReason.MALFORMED, f"unexpected {type(frame).__name__}")

    def _probe(self, frame: Probe) -> Probed | Refused:
        """A few blocks stand for many: they are read again and again."""
        blocks, most = self._source.probe_blocks, self._source.layout.num_blocks
        if not blocks or any(not 0 < count <= most for count in frame.num_blocks):
            return Refused(0, FailReason.UNKNOWN_HANDLE, "this source cannot be probed so")
        size, publish = self._source.layout.block_size, self._source.exports.publish_probe
        lists = [[blocks[at % len(blocks)] for at in range(n)] for n in frame.num_blocks]
        return Probed(tuple(publish(named, len(named) * size) for named in lists))

    def _attach(self, frame: Attach) -> None:
        if frame.ticket in self._readers:
            raise TransferError(FailReason.MALFORMED, "a ticket is used twice")
        export = self._source.exports.attach(frame.handle_id, self)
        if isinstance(export, FailReason):
            text = f"the handle cannot be read: {export.value}"
            self._to_send.append(Refused(frame.ticket, export, text))
            return
        self._readers[frame.ticket] = _Reader(export, self._digest_walk(frame, export))
        self._to_send.append(Attached(frame.ticket, export.num_tokens, export.block_ids))

    def _digest_walk(self, frame: Attach, export: Export) -> DigestWalk:
        layout = self._source.layout
        window = checked_window(frame.window, layout, export.num_tokens)

        blocks, buffer = export.block_ids, self._source.memory.buffer

        def mapped(layer: int, index: int) -> Sequence[Extent]:
            assert window is not None
            return region_extents(layout, layer, blocks[index], index, window)

        sample = Sample(len(blocks), frame.digest_every, frame.digest_phase)
        piece = Piece(0, layout.num_layers, min(frame.first_index, len(blocks)), len(blocks))
        extents = mapped if window is not None else None
        return DigestWalk(RegionHasher(sample, buffer, layout, blocks, extents), piece)

    def _tell(self, ticket: int, reader: _Reader) -> None:
        """The watermark where it moved, and the end of prefill once."""
        output_tokens = reader.export.output_tokens
        mark = reader.export.watermark
        if mark != reader.told:
            reader.told = mark
            reader.owes_digests = not reader.walk.is_done
            self._to_send.append(
                Ready(ticket, mark.full_tokens, mark.partial_tokens, mark.partial_layers)
            )
        if output_tokens is not None and not reader.knows_end:
            reader.knows_end = True
            self._to_send.append(Complete(ticket, output_tokens))

    def _tell_digests(self, ticket: int, reader: _Reader) -> None:
        """Those of one turn, of blocks that the lease keeps while they are read."""
        exports, handle_id = self._source.exports, reader.export.handle_id
        if not reader.owes_digests or not exports.pin(handle_id):
            return
        try:
            ready = ready_blocks(reader.told, self._source.layout, reader.export.num_tokens)
            digests = reader.walk.take(ready, self._max_digests)
        finally:
            exports.unpin(handle_id)
        reader.owes_digests = bool(digests) and not reader.walk.is_done
        if digests:
            self._to_send.append(Digests(ticket, tuple(digests), tuple(digests.values())))

    def _tell_endings(self) -> None:
        while self._endings:
            handle_id, reason, message = self._endings.popleft()
            for ticket, reader in list(self._readers.items()):
                if reader.export.handle_id == handle_id:
                    del self._readers[ticket]
                    self._to_send.append(Ended(ticket, reason, message[:512]))

    def _flush(self) -> None:
        """One system call, and one wake-up of the reader, for all that this turn has to say."""
        if self._to_send:
            self._channel.send(*self._to_send)
            self._to_send.clear()


def checked_window(
    bounds: tuple[int, int, int, int] | None, layout: KVLayout, num_tokens: int
) -> Window | None:
    """Raises TransferError (MALFORMED) for a window outside of the prompt."""
    window = None if bounds is None else Window(*bounds)
    if window is not None and not window.fits(layout, num_tokens):
        raise TransferError(FailReason.MALFORMED, "a window outside of the published prompt")
    return window


def encoded(payload: Sequence[memoryview], wire_format: WireFormat, layout: KVLayout) -> memoryview:
    """Whole regions as they are sent."""
    regions = np.concatenate([np.frombuffer(view, np.uint8) for view in payload])
    return seal(wire_format.encode(regions, layout)).data


@dataclass(slots=True)
class _Sending:
    """A read that is being answered."""

    ticket: int
    export: Export
    cursor: Cursor
    window: Window | None
    wire_format: WireFormat | None


class DataSession(_Session):
    """Answers tcp reads from the pool's memory, in turn, as far as the watermark allows."""

    def __init__(self, channel: Channel, source: Source) -> None:
        super().__init__(channel, source)
        self._sending: deque[_Sending] = deque()
        self._max_regions = max(1, source.config.piece_bytes // source.layout.region_bytes)

    def run(self) -> None:
        """Until the connection ends, which raises TransferError."""
        is_waiting = True
        while True:
            for frame in self._wait(None if is_waiting else 0.0):
                self._handle(frame)
            is_waiting = not self._send_round()

    def _handle(self, frame: Frame) -> None:
        """A read of a handle that has ended is forgotten: the control channel tells its end."""
        if not isinstance(frame, Read):
            raise TransferError(FailReason.MALFORMED, f"unexpected {type(frame).__name__}")
        piece = Piece(frame.first_layer, frame.end_layer, frame.first_index, frame.end_index)
        export = self._source.exports.listen(frame.handle_id, self)
        if export is None:
            return
        if not piece.fits(self._source.layout.num_layers, len(export.block_ids)):
            raise TransferError(FailReason.MALFORMED, "a read outside of the published blocks")
        window = checked_window(frame.window, self._source.layout, export.num_tokens)
        wire_format = FORMATS.get(frame.wire_format)
        if frame.wire_format != AS_IS and (wire_format is None or window is not None):
            raise TransferError(FailReason.MALFORMED, "a wire format that is not known here")
        self._sending.append(_Sending(frame.ticket, export, Cursor(piece), window, wire_format))

    def _send_round(self) -> bool:
        """One piece of each read that has one; whether any had."""
        has_sent = False
        for _ in range(len(self._sending)):
            sending = self._sending.popleft()
            handle_id = sending.export.handle_id
            if not self._source.exports.pin(handle_id):
                continue
            try:
                has_sent |= self._send_piece(sending)
            finally:
                self._source.exports.unpin(handle_id)
            if sending.cursor.num_left:
                self._sending.append(sending)
        return has_sent

    def _send_piece(self, sending: _Sending) -> bool:
        layout, export = self._source.layout, sending.export
        ready = ready_blocks(export.watermark, layout, export.num_tokens)
        piece = sending.cursor.take(ready, self._max_regions)
        if piece is None:
            return False
        taken = list(source_extents(piece, layout, export.block_ids, sending.window))
        buffer = self._source.memory.buffer
        payload = [buffer[offset : offset + size] for offset, size in taken]
        if sending.wire_format is not None:
            payload = [encoded(payload, sending.wire_format, layout)]
        bounds = piece.first_layer, piece.end_layer, piece.first_index, piece.end_index
        header = HEADER.pack(sending.ticket, *bounds, sum(view.nbytes for view in payload))
        views = deque([memoryview(header), *payload])
        send_views(self._channel.sock, views, self._source.config.stall_s)
        return True
