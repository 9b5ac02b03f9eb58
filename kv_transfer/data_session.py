"""The source's side of a tcp data connection: one thread, started by kv_transfer.server."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kv_transfer.channel import Channel
from kv_transfer.control import Frame, Read
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.exports import Export
from kv_transfer.formats import FORMATS, WireFormat, seal
from kv_transfer.mapping import Window, source_extents
from kv_transfer.pace import AS_IS
from kv_transfer.plan import Cursor, Piece, ready_blocks
from kv_transfer.sessions import Session, Source, checked_window
from kv_transfer.transports.tcp import HEADER
from kv_transfer.transports.views import send_views
from wire.kv import KVLayout


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


class DataSession(Session):
    """Answers tcp reads from the pool's memory, in turn, as far as the watermark allows."""

    def __init__(self, channel: Channel, source: Source) -> None:
        super().__init__(channel, source)
        self._sending: deque[_Sending] = deque()
        self._max_regions = max(1, source.config.piece_bytes // source.layout.region_bytes)

    def ended(self, handle_id: bytes, reason: FailReason, message: str) -> None:
        """The control channel tells the reader; here the next round forgets the read."""
        self.wake()

    def run(self) -> None:
        """Until the connection ends, which raises TransferError."""
        is_waiting = True
        while True:
            for frame in self._frames(is_waiting):
                self._handle(frame)
            is_waiting = not self._send_round()

    def _frames(self, is_waiting: bool) -> Sequence[Frame]:
        """With nothing to send only the reader has something to say."""
        if not self._sending:
            return self._channel.receive(waits=True)
        return self._wait(None if is_waiting else 0.0)

    def _handle(self, frame: Frame) -> None:
        """Sends what is ready at once; the rest of it takes turns with what other reads await.

        A read of a handle that has ended is forgotten: the control channel tells its end.
        """
        if not isinstance(frame, Read):
            raise TransferError(FailReason.MALFORMED, f"unexpected {type(frame).__name__}")
        exports = self._source.exports
        export = exports.pin_attached(frame.handle_id)
        if export is None:
            return
        try:
            sending = self._begin(frame, export)
            self._send_piece(sending)
        finally:
            exports.unpin(frame.handle_id)
        if sending.cursor.num_left and exports.listen(frame.handle_id, self) is not None:
            self._sending.append(sending)

    def _begin(self, frame: Read, export: Export) -> _Sending:
        """Raises TransferError (MALFORMED) for a read that cannot be answered."""
        piece = Piece(frame.first_layer, frame.end_layer, frame.first_index, frame.end_index)
        if not piece.fits(self._source.layout.num_layers, len(export.block_ids)):
            raise TransferError(FailReason.MALFORMED, "a read outside of the published blocks")
        window = checked_window(frame.window, self._source.layout, export.num_tokens)
        wire_format = FORMATS.get(frame.wire_format)
        if frame.wire_format != AS_IS and (wire_format is None or window is not None):
            raise TransferError(FailReason.MALFORMED, "a wire format that is not known here")
        return _Sending(frame.ticket, export, Cursor(piece), window, wire_format)

    def _send_round(self) -> bool:
        """One piece of each read that has one; whether any had, and some may have more."""
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
        return has_sent and bool(self._sending)

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
        num_bytes = sum([view.nbytes for view in payload])
        header = HEADER.pack(sending.ticket, *bounds, num_bytes)
        views = deque([memoryview(header), *payload])
        send_views(self._channel.sock, views, self._source.config.stall_s)
        return True
