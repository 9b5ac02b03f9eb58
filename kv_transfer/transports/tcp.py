"""The transport over sockets: from the source's pool into the reader's, no copy in user space.

The reader posts a Read; the source answers with any number of data frames, each a fixed header
and the bytes of a piece, layer by layer, and holds back what prefill has not computed.
"""

import socket
import struct
from collections import deque

import numpy as np

from kv_transfer.control import Read
from kv_transfer.dial import dial
from kv_transfer.errors import FailReason, TransferError, connection_lost
from kv_transfer.formats import FORMATS, most_bytes, unseal
from kv_transfer.handshake import join
from kv_transfer.pace import AS_IS
from kv_transfer.plan import Cursor, Piece
from kv_transfer.tls import TlsSocket
from kv_transfer.transport import LaneContext, Moved, ReadOp
from kv_transfer.transports.small_reads import SmallReads
from kv_transfer.transports.views import consume, first_views

HEADER = struct.Struct("<QIIIIQ")  # ticket, first_layer, end_layer, first_index, end_index, bytes
_AT_ONCE_BYTES = 4 << 20  # of a payload in one system call
_WAIT_BYTES = 1 << 20  # a call for so many stays in the kernel until they are here, or
_WAIT_S = 0.002  # for so long, which the kernel rounds up to its tick
_SINK_BYTES = 1 << 18
_AHEAD_BYTES = 1 << 14  # a larger one is copied for longer than a system call takes


class TcpLane:
    """The reader's side of one data connection.

    What is received behind a payload lands in `ahead`: the next header, and with it the payload
    where that is small. Nothing is ahead while a payload is coming. Much of a payload is waited
    for in the kernel: each return to here and back costs as much as copying 100 KiB.
    """

    name = "tcp"
    reads_ahead = True

    def __init__(self, context: LaneContext) -> None:
        """Raises TransferError when the source cannot be reached or refuses."""
        self._context = context
        self._reads: dict[int, tuple[ReadOp, Cursor]] = {}
        self._ahead = memoryview(bytearray(_AHEAD_BYTES))
        self._ahead_bytes = 0
        self._views: deque[memoryview] = deque()  # for the payload's bytes to come, all of them
        self._ticket: int | None = None  # whose payload is coming; None: a header is
        self._left_bytes = 0  # of the payload
        self._piece: Piece | None = None  # that is coming, unless its pull was dropped
        self._encoded: bytearray | None = None  # payload that is not as it is in the pool
        self._whole: list[tuple[int, Piece]] = []  # that came in one call of progress
        self._moved: dict[int, int] = {}  # in the same, bytes by ticket
        self._small = SmallReads(context.memory.buffer, _AHEAD_BYTES - HEADER.size)
        self._small_moved: list[Moved] = []  # in the same
        self._sink = memoryview(bytearray(_SINK_BYTES))
        self._channel = dial(context.address, context.config)
        try:
            join(self._channel, context.secret, "data", context.source, context.config.connect_s)
        except TransferError:
            self._channel.close()
            raise
        sock = self._channel.sock
        self._waits = not isinstance(sock, TlsSocket)  # that has a buffer of its own
        if not isinstance(sock, TlsSocket):
            limit = struct.pack("ll", 0, int(_WAIT_S * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    @property
    def fd(self) -> int:
        return self._channel.fd

    def post(self, read: ReadOp) -> None:
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
        self._reads[read.ticket] = (read, Cursor(piece))
        self._small.add(read)

    def progress(self) -> list[Moved]:
        self._whole.clear()
        self._moved.clear()
        self._small_moved = []
        budget_bytes = self._context.config.piece_bytes + HEADER.size  # a whole frame
        while budget_bytes > 0 and not (self._has_moved and self._is_idle):
            num_asked, num_bytes = self._receive(min(budget_bytes, _AT_ONCE_BYTES))
            if not num_bytes:
                if self._has_moved or not self._small.is_worth_a_look:
                    break
                self._small.looked()
                continue
            budget_bytes -= num_bytes
            self._take(num_bytes)
            if num_bytes < num_asked:
                break  # that was all, and another look would be in vain
        return self._small_moved + [
            Moved(ticket, num_bytes, tuple([piece for of, piece in self._whole if of == ticket]))
            for ticket, num_bytes in self._moved.items()
        ]

    def wait_s(self) -> float | None:
        is_soon = self._small.is_worth_a_look or self._channel.has_pending
        return 0.0 if is_soon else None

    def drop(self, ticket: int) -> None:
        self._small.drop(ticket)
        if self._reads.pop(ticket, None) is not None and ticket == self._ticket:
            self._views.clear()
            self._piece, self._encoded = None, None
            self._aim_at_sink()

    def close(self) -> None:
        self._reads.clear()
        self._channel.close()

    @property
    def _is_idle(self) -> bool:
        """All that was asked for is here, so another look at the socket would be in vain."""
        return not self._reads and self._ticket is None

    @property
    def _has_moved(self) -> bool:
        return bool(self._moved or self._small_moved)

    def _receive(self, most_bytes: int) -> tuple[int, int]:
        """Of the payload, how many bytes were asked for; and how many went into its views and then
        ahead, 0 when none are here."""
        into, num_asked = first_views(self._views, most_bytes) if self._left_bytes else ([], 0)
        flags = socket.MSG_WAITALL
        if num_asked < _WAIT_BYTES or not self._waits:
            flags = socket.MSG_DONTWAIT
            if num_asked == self._left_bytes:
                into.append(self._ahead[self._ahead_bytes :])
        try:
            num_bytes = self._channel.sock.recvmsg_into(into, 0, flags)[0]
        except BlockingIOError:
            return 0, 0
        except OSError as error:
            raise connection_lost(error) from error
        if not num_bytes:
            raise TransferError(FailReason.PEER_LOST, "the source closed the data connection")
        return num_asked, num_bytes

    def _take(self, num_bytes: int) -> None:
        """Counts what went into the views, then puts what is ahead where it belongs."""
        direct_bytes = min(num_bytes, self._left_bytes)
        if direct_bytes:
            consume(self._views, direct_bytes)
            self._arrived(direct_bytes)
        end = self._ahead_bytes + num_bytes - direct_bytes
        start = 0
        while end - start >= HEADER.size:
            header = HEADER.unpack_from(self._ahead, start)
            start += HEADER.size
            small = self._small.take(header, self._ahead[start:end])
            if small is not None:
                del self._reads[small.ticket]
                self._small_moved.append(small)
                start += small.num_bytes
                continue
            self._begin_payload(*header)
            size = min(self._left_bytes, end - start)
            if size:
                self._fill(self._ahead[start : start + size])
                self._arrived(size)
                start += size
        if start < end:
            self._ahead[: end - start] = self._ahead[start:end]  # the first part of a header
        self._ahead_bytes = end - start

    def _begin_payload(self, ticket: int, *rest: int) -> None:
        """Aims at the blocks that a header names."""
        *bounds, num_bytes = rest
        self._ticket, self._left_bytes = ticket, num_bytes
        if ticket in self._reads:
            self._aim(*self._reads[ticket], Piece(*bounds), num_bytes)
        else:
            self._aim_at_sink()
        if not num_bytes:
            self._finish_payload()

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
        self._views.extend(
            [buffer[offset : offset + size] for offset, size in read.target_extents(piece)]
        )

    def _aim_at_sink(self) -> None:
        """For the bytes of a dropped pull."""
        times, rest = divmod(self._left_bytes, _SINK_BYTES)
        self._views.extend([self._sink] * times)
        if rest:
            self._views.append(self._sink[:rest])

    def _fill(self, data: memoryview) -> None:
        while data:
            view = self._views[0]
            size = min(view.nbytes, data.nbytes)
            view[:size] = data[:size]
            consume(self._views, size)
            data = data[size:]

    def _arrived(self, num_bytes: int) -> None:
        """They are in their place; of an encoded piece, which counts when it is whole, ahead of
        its place."""
        self._left_bytes -= num_bytes
        ticket = self._ticket
        if ticket is not None and ticket in self._reads:
            if self._encoded is not None:
                num_bytes = 0 if self._left_bytes else self._decode()
            self._moved[ticket] = self._moved.get(ticket, 0) + num_bytes
        if not self._left_bytes:
            self._finish_payload()

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

    def _finish_payload(self) -> None:
        entry = self._reads.get(self._ticket) if self._ticket is not None else None
        if entry is not None and not entry[1].num_left:
            del self._reads[entry[0].ticket]
        if self._ticket is not None and self._piece is not None:
            self._whole.append((self._ticket, self._piece))
        self._ticket, self._piece, self._encoded = None, None, None
