"""The transport between two devices' pools of one host: the reader opens the source's pool by a
handle, once, and copies on a stream of its own.

The copies are the reader's, so nothing is written behind its back: what it has started it waits
for. A source that ends leaves the opened memory readable until the reader closes it; what was
copied from it counts for nothing, since the source no longer says that its lease held.
"""

from collections import deque
from dataclasses import dataclass

from kv_transfer.channel import Channel
from kv_transfer.control import Offer
from kv_transfer.device import CopyStream, DeviceMemory, PeerMemory
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.memory import KVMemory
from kv_transfer.transport import LaneContext, Moved, ReadOp
from kv_transfer.transports.copying import check_named
from kv_transfer.transports.offering import ask, tell

NAME = "cuda_ipc"
_MAX_READS = 4  # started and not done, so that the device is never idle between two looks


@dataclass(frozen=True, slots=True)
class _Copying:
    number: int  # of the stream's
    read: ReadOp


class CudaIpcLane:
    """The reader's side. It owns the opened pool, the stream and the connection."""

    name = NAME
    reads_ahead = False

    def __init__(self, context: LaneContext) -> None:
        """Raises TransferError when the source refuses or its pool cannot be opened here."""
        self._num_blocks = context.source_layout.num_blocks
        self._queue: deque[ReadOp] = deque()
        self._copying: deque[_Copying] = deque()
        memory = _device_memory(context.memory)
        self._channel, offer = ask(context, NAME)
        try:
            self._source, self._stream = _open(memory, offer)
        except TransferError:
            self._channel.close()
            raise

    @property
    def fd(self) -> int:
        return self._stream.fd

    def post(self, read: ReadOp) -> None:
        """Raises TransferError (MALFORMED) when the source names blocks outside of its pool."""
        check_named(read, self._num_blocks)
        self._queue.append(read)

    def progress(self) -> list[Moved]:
        while self._queue and len(self._copying) < _MAX_READS:
            read = self._queue.popleft()
            number = self._stream.copy(self._source.address, read.copies())
            self._copying.append(_Copying(number, read))
        return self._ended()

    def wait_s(self) -> float | None:
        return 0.0 if self._queue and len(self._copying) < _MAX_READS else None

    def drop(self, ticket: int) -> None:
        self._queue = deque(read for read in self._queue if read.ticket != ticket)
        last = max((c.number for c in self._copying if c.read.ticket == ticket), default=0)
        self._stream.wait(last)

    def close(self) -> None:
        self._queue.clear()
        self._copying.clear()
        self._stream.close()
        self._source.close()
        self._channel.close()

    def _ended(self) -> list[Moved]:
        num_done, moved = self._stream.num_done(), []
        while self._copying and self._copying[0].number <= num_done:
            read = self._copying.popleft().read
            moved.append(Moved(read.ticket, read.num_bytes, (read.piece,)))
        return moved


class CudaIpcService:
    """The source's side: exports the pool once and tells readers the handle."""

    def __init__(self, memory: KVMemory, timeout_s: float) -> None:
        """timeout_s: for a reader's first word. Raises TransferError (TRANSPORT)."""
        exported = _device_memory(memory)
        self._offer = Offer(exported.export(), exported.address, exported.num_bytes)
        self._timeout_s = timeout_s

    def serve(self, channel: Channel) -> None:
        """Until the connection ends, which raises TransferError."""
        tell(channel, self._offer, self._timeout_s)

    def close(self) -> None:
        """Readers have been told to let go; what they have opened stays theirs to close."""


def _device_memory(memory: KVMemory) -> DeviceMemory:
    if not isinstance(memory, DeviceMemory):
        raise TransferError(FailReason.TRANSPORT, "this worker's pool lies in host memory")
    return memory


def _open(memory: DeviceMemory, offer: Offer) -> tuple[PeerMemory, CopyStream]:
    source = memory.open_peer(offer.metadata, offer.num_bytes)
    try:
        return source, memory.stream()
    except TransferError:
        source.close()
        raise
