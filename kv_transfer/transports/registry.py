"""The transports by name, and which to try for a source."""

from collections.abc import Callable

from kv_transfer.config import TransferConfig
from kv_transfer.transport import Lane, LaneContext
from kv_transfer.transports.cuda_ipc import CudaIpcLane
from kv_transfer.transports.shm import ShmLane
from kv_transfer.transports.striped import StripedTcpLane
from kv_transfer.transports.tcp import TcpLane
from wire.kv import FabricAddress

AUTO = "auto"

Transports = dict[str, Callable[[LaneContext], Lane]]


def _open_tcp(context: LaneContext) -> Lane:
    is_striped = context.config.tcp_connections > 1
    return StripedTcpLane(context) if is_striped else TcpLane(context)


def _open_nixl(context: LaneContext) -> Lane:
    from kv_transfer.transports.nixl import NixlLane
    from kv_transfer.transports.nixl_agent import load_bindings

    return NixlLane(load_bindings(), context)


def _open_ucx(context: LaneContext) -> Lane:
    from kv_transfer.transports.ucx import UcxLane
    from kv_transfer.transports.ucx_port import find_ucx

    return UcxLane(find_ucx(), context)


TRANSPORTS: Transports = {
    "shm": ShmLane,
    "tcp": _open_tcp,
    "nixl": _open_nixl,
    "ucx": _open_ucx,
    "cuda_ipc": CudaIpcLane,
}
DEVICE_TRANSPORTS = ("cuda_ipc", "nixl")
"""Those that reach a pool in a device's memory."""


def candidates(
    config: TransferConfig, address: FabricAddress, my_host_id: str, has_rdma: bool
) -> tuple[str, ...]:
    """Names to try in turn, best first; to open any but the first is a fallback. A forced
    transport has no second.

    On one host memory is mapped; between hosts a side with an RDMA device is reason to expect
    nixl. has_rdma: this host has such a device. With a direct path come first the transports that
    reach a device's memory; the others are for a worker that could not have its pool there.
    """
    if config.transport != AUTO:
        return (config.transport,)
    if address.host_id == my_host_id:
        return ("cuda_ipc", "shm", "tcp") if config.is_direct else ("shm", "tcp")
    expects_nixl = has_rdma or "nixl" in address.transports or config.is_direct
    if config.tls is None and expects_nixl:
        return ("nixl", "tcp")
    return ("tcp",)
