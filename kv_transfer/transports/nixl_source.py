"""The source's side of the transport nixl: one agent that registers the pool once."""

from types import ModuleType

from kv_transfer.channel import Channel
from kv_transfer.memory import KVMemory
from kv_transfer.transports.nixl_agent import NixlAgent
from kv_transfer.transports.offering import tell


class NixlService:
    """Tells proved readers where the pool is; from then on they read without this process."""

    def __init__(
        self, bindings: ModuleType, name: str, memory: KVMemory, devices: str, timeout_s: float
    ) -> None:
        """timeout_s: for a reader's first word. Raises TransferError (TRANSPORT)."""
        self._agent = NixlAgent(bindings, name, memory, devices, serves=True)
        self._offer = self._agent.offer()
        self._timeout_s = timeout_s

    def serve(self, channel: Channel) -> None:
        """Until the connection ends, which raises TransferError."""
        tell(channel, self._offer, self._timeout_s)

    def close(self) -> None:
        """Ends every reader's access. Safe to call twice."""
        self._agent.close()
