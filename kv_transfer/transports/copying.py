"""A lane that copies from a mapping of the source's pool, a slice at a time."""

from collections import deque

from kv_transfer.copy_regions import load_copy_regions
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.memory import KVMemory
from kv_transfer.transport import LaneContext, Moved, ReadOp


def check_named(read: ReadOp, num_blocks: int) -> None:
    """Raises TransferError (MALFORMED) when the source names blocks outside of its pool."""
    piece = read.piece
    named = read.source_blocks[piece.first_index : piece.end_index]
    if len(named) != piece.end_index - piece.first_index or max(named) >= num_blocks:
        raise TransferError(FailReason.MALFORMED, "the source named blocks that it lacks")


class CopyingLane:
    """Shared by memory and shm."""

    reads_ahead = False
    fd = -1

    def __init__(self, name: str, context: LaneContext, source: KVMemory) -> None:
        self.name = name
        self._context = context
        self._source = source
        self._source_address = source.address
        self._target_address = context.memory.address
        self._copy = load_copy_regions()
        self._queue: deque[ReadOp] = deque()

    def post(self, read: ReadOp) -> None:
        """Raises TransferError (MALFORMED) when the source names blocks outside of its pool."""
        check_named(read, self._context.source_layout.num_blocks)
        self._queue.append(read)

    def progress(self) -> tuple[Moved, ...]:
        if not self._queue:
            return ()
        read = self._queue.popleft()
        self._copy(self._target_address, self._source_address, read.copies())
        return (Moved(read.ticket, read.num_bytes, (read.piece,)),)

    def wait_s(self) -> float | None:
        return 0.0 if self._queue else None

    def drop(self, ticket: int) -> None:
        self._queue = deque(read for read in self._queue if read.ticket != ticket)

    def close(self) -> None:
        self._queue.clear()
