"""The transport inside one process: a copy between two pools. For tests and single processes."""

from kv_transfer.errors import FailReason, TransferError
from kv_transfer.memory import KVMemory
from kv_transfer.transport import LaneContext
from kv_transfer.transports.copying import CopyingLane


class MemoryHub:
    """The pools of one process by the port of their source; `open` goes into a registry dict."""

    def __init__(self) -> None:
        self._pools: dict[int, KVMemory] = {}

    def offer(self, port: int, memory: KVMemory) -> None:
        self._pools[port] = memory

    def withdraw(self, port: int) -> None:
        self._pools.pop(port, None)

    def open(self, context: LaneContext) -> CopyingLane:
        """Raises TransferError (TRANSPORT) when the source lives in another process."""
        pool = self._pools.get(context.address.port)
        if pool is None:
            raise TransferError(FailReason.TRANSPORT, "the source's pool is not in this process")
        return CopyingLane("memory", context, pool)
