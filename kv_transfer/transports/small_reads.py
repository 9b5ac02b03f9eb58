"""The small reads of a tcp lane: one frame answers each, and what it has to be is known before."""

from dataclasses import dataclass

from kv_transfer.pace import AS_IS
from kv_transfer.transport import Moved, ReadOp

_MOST_LOOKS = 32  # some 2 us each, together about what sleeping and being woken costs both sides

Header = tuple[int, ...]
"""ticket, first_layer, end_layer, first_index, end_index, bytes"""


@dataclass(frozen=True, slots=True)
class _SmallRead:
    header: Header  # of its whole answer
    views: list[memoryview]  # where that goes
    moved: Moved


class SmallReads:
    """Those that nothing has come for. All that can be prepared is, while the source is at work.

    A read this small is answered sooner than a thread has gone to sleep and been woken, so the
    lane looks for the answer a few times before it sleeps: in vain, that costs as much again.
    """

    def __init__(self, buffer: memoryview, most_bytes: int) -> None:
        """buffer: the pool that is read into. most_bytes: of a small read."""
        self._buffer = buffer
        self._most_bytes = most_bytes
        self._reads: dict[int, _SmallRead] = {}
        self._looks_left = 0

    @property
    def is_worth_a_look(self) -> bool:
        """Rather than to sleep until the lane's socket can be read."""
        return bool(self._reads) and self._looks_left > 0

    def looked(self) -> None:
        """In vain."""
        self._looks_left -= 1

    def add(self, read: ReadOp) -> None:
        """Does nothing for a read that is not small."""
        num_bytes, piece = read.num_bytes, read.piece
        if read.wire_format != AS_IS or not 0 < num_bytes <= self._most_bytes:
            return
        bounds = piece.first_layer, piece.end_layer, piece.first_index, piece.end_index
        self._reads[read.ticket] = _SmallRead(
            (read.ticket, *bounds, num_bytes),
            [self._buffer[offset : offset + size] for offset, size in read.target_extents(piece)],
            Moved(read.ticket, num_bytes, (piece,)),
        )
        self._looks_left = _MOST_LOOKS

    def drop(self, ticket: int) -> None:
        self._reads.pop(ticket, None)

    def take(self, header: Header, data: memoryview) -> Moved | None:
        """Writes the answer, which `data` begins with. None where this frame is another one or has
        not come whole: its read counts as small no more."""
        read = self._reads.pop(header[0], None)
        if read is None or read.header != header or data.nbytes < read.moved.num_bytes:
            return None
        at = 0
        for view in read.views:
            view[:] = data[at : at + view.nbytes]
            at += view.nbytes
        return read.moved
