"""The transport over sockets: from the source's pool into the reader's, no copy in user space.

The reader posts a Read; the source answers with any number of data frames, each a fixed header
and the bytes of a piece, layer by layer, and holds back what prefill has not computed.
"""

import socket
import struct
from collections import deque
from itertools import islice

import numpy as np

from kv_transfer.channel import wait_writable
from kv_transfer.control import Read
from kv_transfer.dial import dial
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.formats import FORMATS, most_bytes, unseal
from kv_transfer.handshake import join
from kv_transfer.pace import AS_IS
from kv_transfer.plan import Cursor, Piece
from kv_transfer.tls import TlsSocket
from kv_transfer.transport import LaneContext, Moved, ReadOp

MAX_VIEWS = 256  # of one system call; the kernel allows 1,024
HEADER = struct.Struct("<QIIIIQ")  # ticket, first_layer, end_layer, first_index, end_index, bytes
_SINK_BYTES = 1 << 18


def send_views(sock: socket.socket | TlsSocket, views: deque[memoryview], stall_s: float) -> None:
    """Sends all of `views`. Raises TransferError (PEER_HUNG, PEER_LOST)."""
    while views:
        head = list(islice(views, MAX_VIEWS))
        try:
            num_sent = sock.sendmsg(head, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            wait_writable(sock, stall_s)
            continue
        except OSError as error:
            raise TransferError(FailReason.PEER_LOST, f"connection lost: {error}") from error
        consume(views, num_sent)


def consume(views: deque[memoryview], num_bytes: int) -> None:
    """Takes `num_bytes` off the front."""
    while num_bytes:
        first = views.popleft()
        if first.nbytes > num_bytes:
            views.appendleft(first[num_bytes:])
            return
        num_bytes -= first.nbytes


class TcpLane:
    """The reader's side of one data connection."""

    name = "tcp"
    reads_ahead = True

    def __init__(self, context: LaneContext) -> None:
        """Raises TransferError when the source cannot be reached or refuses."""
        self._context = context
        self._reads: dict[int, tuple[ReadOp, Cursor]] = {}
        self._header = bytearray(HEADER.size)
        self._views: deque[memoryview] = deque([memoryview(self._header)])
        self._ticket: int | None = None  # whose payload is coming; None: a header is
        self._left_bytes = 0  # of the payload
        self._piece: Piece | None = None  # that is coming, unless its pull was dropped
        self._encoded: bytearray | None = None  # payload that is not as it is in the pool
        self._whole: list[tuple[int, Piece]] = []  # what has come in one call of progress
        self._sink = memoryview(bytearray(_SINK_BYTES))
        self._channel = dial(context.address, context.config)
        try:
            join(self._channel, context.secret, "data", context.source, context.config.connect_s)
        except TransferError:
            self._channel.close()
            raise

    @property
    def fd(self) -> int:
        return self._channel.fd

    def post(self, read: ReadOp) -> None:
        self._reads[read.ticket] = (read, Cursor(read.piece))
        piece = read.piece
        self._channel.send(
            Read(
                read.ticket,
                read.handle_id,
                piece.first_layer,
                piece.end_layer,
                piece.first_index,
                piece.end_index,
                read.mapping.window_on_wire,
                read.wire_format,
            )
        )

    def progress(self) -> list[Moved]:
        moved: dict[int, int] = {}
        self._whole.clear()
        budget_bytes = self._context.config.piece_bytes
        while budget_bytes > 0 and not (moved and self._is_idle):
            num_bytes = self._receive()
            if not num_bytes:
                break
            budget_bytes -= num_bytes
            if self._ticket is None:
                self._begin_payload()
                continue
            ticket = self._ticket
            self._left_bytes -= num_bytes
            if ticket in self._reads:
                decoded = self._encoded is not None and not self._left_bytes
                plain = 0 if self._encoded is not None else num_bytes
                moved[ticket] = moved.get(ticket, 0) + (self._decode() if decoded else plain)
            self._next_views()
        return [
            Moved(ticket, num_bytes, tuple(piece for of, piece in self._whole if of == ticket))
            for ticket, num_bytes in moved.items()
        ]

    def wait_s(self) -> float | None:
        return 0.0 if self._channel.has_pending else None

    def drop(self, ticket: int) -> None:
        if self._reads.pop(ticket, None) is not None and ticket == self._ticket:
            self._views.clear()
            self._piece, self._encoded = None, None
            self._next_views()

    def close(self) -> None:
        self._reads.clear()
        self._channel.close()

    @property
    def _is_idle(self) -> bool:
        """All that was asked for is here, so another look at the socket would be in vain."""
        return not self._reads and self._ticket is None

    def _receive(self) -> int:
        """Bytes that went into the views; 0 when none are here."""
        head = list(islice(self._views, MAX_VIEWS))
        try:
            num_bytes = self._channel.sock.recvmsg_into(head, 0, socket.MSG_DONTWAIT)[0]
        except BlockingIOError:
            return 0
        except OSError as error:
            raise TransferError(FailReason.PEER_LOST, f"connection lost: {error}") from error
        if not num_bytes:
            raise TransferError(FailReason.PEER_LOST, "the source closed the data connection")
        consume(self._views, num_bytes)
        return num_bytes

    def _begin_payload(self) -> None:
        """Aims at the blocks of the header that has come in; the rest of a header has to wait."""
        if self._views:
            return
        ticket, *bounds, num_bytes = HEADER.unpack(self._header)
        self._ticket, self._left_bytes = ticket, num_bytes
        if ticket in self._reads:
            self._aim(*self._reads[ticket], Piece(*bounds), num_bytes)
        self._next_views()

    def _aim(self, read: ReadOp, cursor: Cursor, piece: Piece, num_bytes: int) -> None:
        is_encoded = read.wire_format != AS_IS
        whole_bytes = read.mapping.num_bytes(piece) if cursor.accept(piece) else -1
        if num_bytes > most_bytes(whole_bytes) if is_encoded else num_bytes != whole_bytes:
            raise TransferError(FailReason.MALFORMED, "a data frame that was not asked for")
        self._piece = piece
        if is_encoded:
            self._encoded = bytearray(num_bytes)
            self._views.append(memoryview(self._encoded))
            return
        buffer = self._context.memory.buffer
        for offset, size in read.target_extents(piece):
            self._views.append(buffer[offset : offset + size])

    def _decode(self) -> int:
        """Writes the piece that has come whole; gives its bytes in the pool."""
        assert self._encoded is not None and self._piece is not None and self._ticket is not None
        read, _ = self._reads[self._ticket]
        num_bytes = read.mapping.num_bytes(self._piece)
        try:
            body = unseal(np.frombuffer(self._encoded, np.uint8))
            layout = self._context.source_layout
            regions = FORMATS[read.wire_format].decode(body, layout, num_bytes).data
        except ValueError as error:
            raise TransferError(FailReason.CORRUPT, str(error)) from error
        buffer, at = self._context.memory.buffer, 0
        for offset, size in read.target_extents(self._piece):
            buffer[offset : offset + size] = regions[at : at + size]
            at += size
        return num_bytes

    def _next_views(self) -> None:
        """Keeps a place for the bytes to come: the sink for a dropped pull, then a header."""
        if self._left_bytes and not self._views:
            self._views.append(self._sink[: min(self._left_bytes, _SINK_BYTES)])
        elif not self._left_bytes:
            self._finish_payload()

    def _finish_payload(self) -> None:
        entry = self._reads.get(self._ticket) if self._ticket is not None else None
        if entry is not None and not entry[1].num_left:
            del self._reads[entry[0].ticket]
        if self._ticket is not None and self._piece is not None:
            self._whole.append((self._ticket, self._piece))
        self._ticket, self._piece, self._encoded = None, None, None
        self._views.append(memoryview(self._header))
