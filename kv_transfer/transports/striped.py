"""The transport tcp over several connections: each read is cut into stripes that travel at once.

One connection is served by one thread of the source and one queue of a network card; several use
more of both. What is small goes whole, by one connection after the other.
"""

import itertools
import select
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kv_transfer.errors import TransferError
from kv_transfer.plan import Piece
from kv_transfer.transport import LaneContext, Moved, ReadOp
from kv_transfer.transports.tcp import TcpLane

_STRIPE_BYTES = 1 << 20  # at least, of each layer
_STRIPES_EACH = 4  # about so many a connection, so that all end at about the same time


@dataclass(slots=True)
class _Part:
    ticket: int  # of the read that it is part of
    left_bytes: int


class StripedTcpLane:
    """The reader's side of config.tcp_connections data connections to one source."""

    name = "tcp"
    reads_ahead = True

    def __init__(self, context: LaneContext) -> None:
        """Raises TransferError when the source cannot be reached or refuses."""
        self._context = context
        self._lanes: dict[int, TcpLane] = {}  # by descriptor
        self._parts: dict[int, _Part] = {}  # by the ticket under which it travels
        self._numbers = itertools.count(1)
        self._poller = select.epoll()
        try:
            for _ in range(context.config.tcp_connections):
                self._add(TcpLane(context))
        except TransferError:
            self.close()
            raise
        self._next = itertools.cycle(self._lanes.values())

    @property
    def fd(self) -> int:
        return self._poller.fileno()

    def post(self, read: ReadOp) -> None:
        region_bytes = self._context.source_layout.region_bytes
        for piece in stripes(read.piece, region_bytes, len(self._lanes)):
            part = replace(read, ticket=next(self._numbers), piece=piece)
            if not part.num_bytes:
                continue  # the reader's share holds nothing of these blocks
            self._parts[part.ticket] = _Part(read.ticket, part.num_bytes)
            next(self._next).post(part)

    def progress(self) -> list[Moved]:
        readable = {fd for fd, _ in self._poller.poll(0)}
        return [
            self._told(moved)
            for fd, lane in self._lanes.items()
            if fd in readable or lane.wait_s() is not None
            for moved in lane.progress()
        ]

    def wait_s(self) -> float | None:
        waits = (lane.wait_s() for lane in self._lanes.values())
        return min((wait for wait in waits if wait is not None), default=None)

    def drop(self, ticket: int) -> None:
        parts = [number for number, part in self._parts.items() if part.ticket == ticket]
        for number in parts:
            for lane in self._lanes.values():
                lane.drop(number)
            del self._parts[number]

    def close(self) -> None:
        self._poller.close()
        for lane in self._lanes.values():
            lane.close()

    def _told(self, moved: Moved) -> Moved:
        part = self._parts[moved.ticket]
        part.left_bytes -= moved.num_bytes
        if not part.left_bytes:
            del self._parts[moved.ticket]
        return replace(moved, ticket=part.ticket)

    def _add(self, lane: TcpLane) -> None:
        self._lanes[lane.fd] = lane
        self._poller.register(lane.fd, select.EPOLLIN)


def stripes(piece: Piece, region_bytes: int, num_connections: int) -> Iterator[Piece]:
    """The piece cut by block index, in order; whole where it is not worth it."""
    num_blocks = piece.end_index - piece.first_index
    width = max(1, -(-_STRIPE_BYTES // region_bytes))
    if num_connections > 1:
        width = max(width, -(-num_blocks // (_STRIPES_EACH * num_connections)))
    else:
        width = max(1, num_blocks)
    for start in range(piece.first_index, piece.end_index, width):
        yield replace(piece, first_index=start, end_index=min(start + width, piece.end_index))
