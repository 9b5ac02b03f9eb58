"""The source's side of the transport nixl: one agent that registers the pool once."""

from types import ModuleType

from kv_transfer.channel import Channel, wait_readable
from kv_transfer.control import Offer, Ping
from kv_transfer.errors import FailReason, TransferError
from kv_transfer.memory import KVMemory
from kv_transfer.transports.nixl_agent import NixlAgent


class NixlService:
    """Tells proved readers where the pool is; from then on they read without this process.

    What a reader was told stays true until `close`: it reads only blocks of exports that it has
    attached, which their leases keep, and asks after each pull whether the lease held.
    """

    def __init__(
        self, bindings: ModuleType, name: str, memory: KVMemory, devices: str, timeout_s: float
    ) -> None:
        """timeout_s: for a reader's first word. Raises TransferError (TRANSPORT)."""
        self._agent = NixlAgent(bindings, name, memory, devices, serves=True)
        self._offer = Offer(self._agent.metadata(), self._agent.address, self._agent.num_bytes)
        self._timeout_s = timeout_s

    def serve(self, channel: Channel) -> None:
        """Until the connection ends, which raises TransferError."""
        if not isinstance(channel.receive_one(self._timeout_s), Ping):
            raise TransferError(FailReason.MALFORMED, "the peer did not ask for the pool")
        channel.send(self._offer)
        while True:
            wait_readable([channel.fd], None)
            if channel.receive():
                raise TransferError(FailReason.MALFORMED, "the peer asks again")

    def close(self) -> None:
        """Ends every reader's access. Safe to call twice."""
        self._agent.close()
