"""The transport tcp over several connections: each read is cut into stripes that travel at once.

A connection is served by a thread of the source, a thread of the reader and a queue of a network
card; several use more of each. What is small goes whole, by one connection after the other.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kv_transfer.channel import Waker
from kv_transfer.errors import TransferError
from kv_transfer.plan import Piece
from kv_transfer.transport import LaneContext, Moved, ReadOp
from kv_transfer.transports.stripe import Stripe
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
        self._stripes: list[Stripe] = []
        self._parts: dict[int, _Part] = {}  # by the ticket under which it travels
        self._numbers = itertools.count(1)
        self._waker = Waker()
        try:
            for _ in range(context.config.tcp_connections):
                self._stripes.append(Stripe(TcpLane(context), self._waker.wake))
        except TransferError:
            self.close()
            raise
        self._next = itertools.cycle(self._stripes)

    @property
    def fd(self) -> int:
        return self._waker.fd

    def post(self, read: ReadOp) -> None:
        region_bytes = self._context.source_layout.region_bytes
        for piece in stripes(read.piece, region_bytes, len(self._stripes)):
            part = replace(read, ticket=next(self._numbers), piece=piece)
            if not part.num_bytes:
                continue  # the reader's share holds nothing of these blocks
            self._parts[part.ticket] = _Part(read.ticket, part.num_bytes)
            next(self._next).post(part)

    def progress(self) -> list[Moved]:
        self._waker.clear()
        moved = [moved for stripe in self._stripes for moved in stripe.take()]
        return [self._told(part) for part in moved if part.ticket in self._parts]

    def wait_s(self) -> float | None:
        return None

    def drop(self, ticket: int) -> None:
        parts = {number for number, part in self._parts.items() if part.ticket == ticket}
        if not parts:
            return
        for fence in [stripe.drop(parts) for stripe in self._stripes]:
            fence.wait()
        for number in parts:
            del self._parts[number]

    def close(self) -> None:
        for stripe in self._stripes:
            stripe.begin_close()
        for stripe in self._stripes:
            stripe.close()
        self._waker.close()

    def _told(self, moved: Moved) -> Moved:
        part = self._parts[moved.ticket]
        part.left_bytes -= moved.num_bytes
        if not part.left_bytes:
            del self._parts[moved.ticket]
        return replace(moved, ticket=part.ticket)


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
