"""The network devices of this host, as UCX names them."""

import socket
from pathlib import Path

import psutil

_RDMA_DEVICES = Path("/sys/class/infiniband")
ALL_DEVICES = ""


def rdma_devices(root: Path = _RDMA_DEVICES) -> tuple[str, ...]:
    """Ports of RDMA devices (verbs and EFA), as "mlx5_0:1"; none on a host without them."""
    if not root.is_dir():
        return ()
    return tuple(
        f"{device.name}:{port.name}"
        for device in sorted(root.iterdir())
        for port in sorted((device / "ports").iterdir())
    )


def ucx_devices(local_ip: str) -> str:
    """The interface with this address and the RDMA ports, as UCX_NET_DEVICES lists them.

    On the loopback address RDMA ports are left out. All devices for an address of no interface,
    such as 0.0.0.0.
    """
    interface = _interface_of(local_ip)
    if interface is None:
        return ALL_DEVICES
    if _is_loopback(local_ip):
        return interface
    return ",".join((interface, *rdma_devices()))


def _interface_of(ip: str) -> str | None:
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            is_ip = address.family in (socket.AF_INET, socket.AF_INET6)
            if is_ip and address.address.partition("%")[0] == ip:
                return name
    return None


def _is_loopback(ip: str) -> bool:
    return ip.startswith("127.") or ip == "::1"
