"""The transports by name, and which to try for a source."""

from collections.abc import Callable

from kv_transfer.config import TransferConfig
from kv_transfer.transport import Lane, LaneContext
from kv_transfer.transports.shm import ShmLane
from kv_transfer.transports.tcp import TcpLane
from wire.kv import FabricAddress

AUTO = "auto"

Transports = dict[str, Callable[[LaneContext], Lane]]

TRANSPORTS: Transports = {"shm": ShmLane, "tcp": TcpLane}


def candidates(config: TransferConfig, address: FabricAddress, my_host_id: str) -> tuple[str, ...]:
    """Names to try in turn, best first; a forced transport has no second."""
    if config.transport != AUTO:
        return (config.transport,)
    is_here = bool(address.shm_path) and address.host_id == my_host_id
    return tuple(
        name for name in ("shm", "tcp") if name in address.transports and (name != "shm" or is_here)
    )
