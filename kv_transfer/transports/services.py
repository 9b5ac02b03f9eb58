"""The source's side of the optional transports: which a source offers, and how they start."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kv_transfer.channel import Channel
from kv_transfer.device import DeviceMemory
from kv_transfer.errors import TransferError
from kv_transfer.sessions import Source
from kv_transfer.transports.cuda_ipc import CudaIpcService
from kv_transfer.transports.interfaces import rdma_devices, ucx_devices
from kv_transfer.transports.registry import AUTO
from runtime.clock import Clock
from runtime.log import Logger


class Service(Protocol):
    """Serves connections whose purpose is the transport's name, each on a thread of its own."""

    def serve(self, channel: Channel) -> None:
        """Until the connection ends, which raises TransferError."""

    def close(self) -> None:
        """Safe to call twice; every `serve` has returned."""


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What a service serves from. host: the address that this source listens on."""

    source: Source
    host: str
    clock: Clock


OpenService = Callable[[ServiceContext], Service]


def _open_nixl(context: ServiceContext) -> Service:
    from kv_transfer.transports.nixl_agent import load_bindings
    from kv_transfer.transports.nixl_source import NixlService

    return NixlService(
        load_bindings(),
        f"source-{secrets.token_hex(8)}",
        context.source.memory,
        ucx_devices(context.host),
        context.source.config.connect_s,
    )


def _open_ucx(context: ServiceContext) -> Service:
    from kv_transfer.transports.ucx_port import find_ucx
    from kv_transfer.transports.ucx_source import UcxService

    return UcxService(find_ucx(), context.source, ucx_devices(context.host), context.clock)


def _open_cuda_ipc(context: ServiceContext) -> Service:
    return CudaIpcService(context.source.memory, context.source.config.connect_s)


SERVICES: dict[str, OpenService] = {
    "nixl": _open_nixl,
    "ucx": _open_ucx,
    "cuda_ipc": _open_cuda_ipc,
}


def wanted_services(transport: str, has_rdma: bool, on_device: bool = False) -> tuple[str, ...]:
    """Names of SERVICES that a source with this setting has to start. on_device: its pool lies in
    a device's memory."""
    if transport != AUTO:
        return (transport,) if transport in SERVICES else ()
    return (*(("cuda_ipc",) if on_device else ()), *(("nixl",) if has_rdma else ()))


def open_services(context: ServiceContext, log: Logger) -> dict[str, Service]:
    """Starts what the configuration asks for; the automatic choice goes on without what fails,
    with a warning here and a counted fallback at every reader.

    Raises OSError when a forced transport cannot be started.
    """
    transport = context.source.config.transport
    on_device = isinstance(context.source.memory, DeviceMemory)
    services: dict[str, Service] = {}
    for name in wanted_services(transport, bool(rdma_devices()), on_device):
        try:
            services[name] = SERVICES[name](context)
        except TransferError as error:
            if transport != AUTO:
                raise OSError(f"the transport {name} cannot be started: {error}") from error
            log.warning("kv transport not offered", transport=name, error=str(error))
    return services
