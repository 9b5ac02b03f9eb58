"""The transport over UCX's tagged messages: packed at the source, unpacked here.

The reader posts a receive and asks for a piece over its own connection; the source answers every
such Read with one message of the piece's size under the tag that the Read names. A piece that is
one run of the pool is received in place, any other in a buffer of the lane. What is received in
place cannot be taken back, so a dropped pull waits for it, and where it does not come soon, the
port is closed, which is the fence: UCX writes what TCP carries only while the port is progressed.
Another port then asks again for what the other pulls had asked for.
"""

import secrets
import select
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from kv_transfer.channel import Channel, wait_readable
from kv_transfer.control import Meet, Pong, Read
from kv_transfer.dial import dial
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.handshake import join
from kv_transfer.plan import Piece
from kv_transfer.transport import LaneContext, Moved, ReadOp
from kv_transfer.transports.interfaces import ucx_devices
from kv_transfer.transports.staging import Staging
from kv_transfer.transports.ucx_port import OpenPort, UcxPort, UcxRequest, progress_until

MAX_MESSAGES = 3  # under way at once: while one is unpacked the next ones travel
NUDGE_S = 0.005  # between two looks at messages under way: UCX misses to tell of some events
_MESSAGE_BYTES = 2 << 20  # that is packed: it stays in a core's cache until it is sent or unpacked
# Of a run, in one message: each costs some 0.2 ms, and a link of 100 Mbit/s brings it in 1.4 s.
_RUN_PIECES = 2
_FENCE_LOOKS = 200  # at dropped messages before their port is closed
_FENCE_LOOK_S = 0.001


@dataclass(slots=True, eq=False)
class _Receiving:
    """staging: None where the message goes to its place in the pool."""

    op: ReadOp
    staging: Staging | None
    request: UcxRequest
    is_dropped: bool = False

    @property
    def may_harm(self) -> bool:
        """The pool may still be written for a pull that was dropped."""
        return self.is_dropped and self.staging is None and not self.request.is_done()


class UcxLane:
    """The reader's side: a port of its own, and the connection that asks."""

    name = "ucx"
    reads_ahead = False

    def __init__(self, open_port: OpenPort, context: LaneContext) -> None:
        """Raises TransferError when the source refuses or UCX cannot start."""
        self._open_port = open_port
        self._context = context
        self._pool = context.memory.address
        self._queue: deque[ReadOp] = deque()
        self._receiving: deque[_Receiving] = deque()
        self._free: list[Staging] = []
        self._next_tag = secrets.randbits(62)
        self._poller = select.epoll()
        try:
            self._channel, self._port = self._meet()
        except TransferError:
            self._poller.close()
            raise

    @property
    def fd(self) -> int:
        return self._poller.fileno()

    def post(self, read: ReadOp) -> None:
        """Cut into messages; what is one run on both sides is not packed, and smaller ones cost."""
        is_run = _is_run_on_both_sides(read)
        if is_run and (joined := self._joined(read)) is not None:
            self._queue[-1] = joined
            return
        for part in cut(read.piece, read.num_bytes, is_run):
            self._queue.append(replace(read, piece=part))

    def progress(self) -> list[Moved]:
        """At most one message a call is unpacked."""
        if self._channel.receive():
            raise TransferError(FailReason.MALFORMED, "the source talks back")
        self._ask()
        progress_until(self._has_arrived, self._port, self._context.clock)
        if not self._receiving or not self._has_arrived():
            return []
        done = self._receiving.popleft()
        if done.staging is not None:
            self._free.append(done.staging)
            if not done.is_dropped:
                done.staging.unpack(self._pool, done.op.target_extents(done.op.piece))
        if done.is_dropped:
            return []
        return [Moved(done.op.ticket, done.op.num_bytes, (done.op.piece,))]

    def wait_s(self) -> float | None:
        if self._can_ask or (self._receiving and self._has_arrived()) or not self._port.rest():
            return 0.0
        return NUDGE_S if self._receiving else None

    def drop(self, ticket: int) -> None:
        self._queue = deque(read for read in self._queue if read.ticket != ticket)
        for receiving in self._receiving:
            receiving.is_dropped |= receiving.op.ticket == ticket
        for _ in range(_FENCE_LOOKS):
            if not any(receiving.may_harm for receiving in self._receiving):
                return
            self._port.progress()
            if self._port.rest():
                wait_readable([self._port.fd], _FENCE_LOOK_S)
        self._replace_port()

    def close(self) -> None:
        self._queue.clear()
        self._poller.close()
        self._port.close()
        self._receiving.clear()
        self._channel.close()

    @property
    def _can_ask(self) -> bool:
        return bool(self._queue) and len(self._receiving) < MAX_MESSAGES

    def _has_arrived(self) -> bool:
        """The next message is here, or none is under way."""
        return not self._receiving or self._receiving[0].request.is_done()

    def _joined(self, read: ReadOp) -> ReadOp | None:
        """A run together with the last read that waits, where that makes one longer run."""
        most = _RUN_PIECES * self._context.config.piece_bytes
        joined = read.joined(self._queue[-1], most) if self._queue else None
        if joined is None or joined.piece.end_layer - joined.piece.first_layer > 1:
            return None
        return joined if _is_run_on_both_sides(joined) else None

    def _ask(self) -> None:
        """For as many pieces as may be under way."""
        frames = []
        while self._can_ask:
            frames.append(self._receive(self._queue.popleft()))
        if frames:
            self._channel.send(*frames)

    def _receive(self, op: ReadOp) -> Read:
        staging, view = None, self._place(op)
        if view is None:
            staging = self._free.pop() if self._free else Staging(staging_bytes(self._context))
            view = staging.view(op.num_bytes)
        self._next_tag += 1
        request = self._port.receive(view, self._next_tag)
        self._receiving.append(_Receiving(op, staging, request))
        piece = op.piece
        return Read(
            self._next_tag,
            op.handle_id,
            piece.first_layer,
            piece.end_layer,
            piece.first_index,
            piece.end_index,
            op.mapping.window_on_wire,
        )

    def _place(self, op: ReadOp) -> memoryview | None:
        """Of the pool, where all of the piece goes; None where that is scattered."""
        if op.mapping.window is None and not _is_run(op.target_blocks, op.piece):
            return None
        start, size = next(op.target_extents(op.piece), (0, -1))
        return self._context.memory.buffer[start : start + size] if size == op.num_bytes else None

    def _replace_port(self) -> None:
        """Nothing that was asked for is written any more; what others wait for is asked again.

        Raises TransferError where the source does not meet the new port.
        """
        for fd in (self._channel.fd, self._port.fd):
            self._poller.unregister(fd)
        self._port.close()
        self._channel.close()
        again = [receiving.op for receiving in self._receiving if not receiving.is_dropped]
        self._receiving.clear()
        self._queue.extendleft(reversed(again))
        self._channel, self._port = self._meet()

    def _meet(self) -> tuple[Channel, UcxPort]:
        """Of this lane's poller too. Raises TransferError."""
        channel, port = _meet(self._open_port, self._context)
        self._poller.register(channel.fd, select.EPOLLIN)
        self._poller.register(port.fd, select.EPOLLIN)
        return channel, port


def cut(piece: Piece, num_bytes: int, is_run: bool) -> Iterator[Piece]:
    """In order, for a message of about _MESSAGE_BYTES each: several layers, or where one is
    longer, some blocks of one. num_bytes: of the piece. is_run: layers are not cut."""
    num_blocks = piece.end_index - piece.first_index
    layer_bytes = max(1, num_bytes // (piece.end_layer - piece.first_layer))
    depth, width = max(1, _MESSAGE_BYTES // layer_bytes), num_blocks
    if depth == 1 and not is_run:
        width = max(1, num_blocks * _MESSAGE_BYTES // layer_bytes)
    for layer in range(piece.first_layer, piece.end_layer, depth):
        end_layer = min(layer + depth, piece.end_layer)
        for start in range(piece.first_index, piece.end_index, width):
            yield Piece(layer, end_layer, start, min(start + width, piece.end_index))


def _is_run_on_both_sides(read: ReadOp) -> bool:
    sides = (read.source_blocks, read.target_blocks)
    return read.mapping.window is None and all(_is_run(blocks, read.piece) for blocks in sides)


def _is_run(blocks: Sequence[int], piece: Piece) -> bool:
    """Its blocks are neighbours, in order."""
    first, last = blocks[piece.first_index], blocks[piece.end_index - 1]
    if last - first != piece.end_index - 1 - piece.first_index:
        return False
    return list(blocks[piece.first_index : piece.end_index]) == list(range(first, last + 1))


def staging_bytes(context: LaneContext) -> int:
    """The most that one piece can hold."""
    return max(context.config.piece_bytes, context.source_layout.region_bytes)


def _meet(open_port: OpenPort, context: LaneContext) -> tuple[Channel, UcxPort]:
    """A proved connection whose other side sends to the port. Raises TransferError."""
    address, config = context.address, context.config
    channel = dial(address, config)
    close: Callable[[], None] = channel.close
    try:
        join(channel, context.secret, "ucx", context.source, config.connect_s)
        port = open_port(ucx_devices(channel.sock.getsockname()[0]), b"")
        close = port.close
        channel.send(Meet(port.address))
        if not isinstance(channel.receive_one(config.connect_s), Pong):
            raise TransferError(FailReason.MALFORMED, "the source did not meet the port")
    except TransferError:
        close()
        channel.close()
        raise
    return channel, port
