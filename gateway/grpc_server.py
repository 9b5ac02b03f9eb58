"""The gateway's gRPC server: both generating services, health and reflection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gateway import grpc_generate, open_inference
from gateway.endpoint import Services
from gateway.grpc_calls import GrpcCalls
from gateway.limits import MAX_HEADER_BYTES, Limits
from gateway.prepare import Preparer
from runtime.log import get_logger
from wire.gen import generate_pb2_grpc, open_inference_pb2_grpc

_READY_EVERY_S = 0.25
_AFTER_DRAIN_S = 5.0
_SERVICES = (open_inference.SERVICE, grpc_generate.SERVICE)
_log = get_logger("gateway")


@dataclass(frozen=True, slots=True)
class GrpcAddress:
    """Where to listen, on a port that is known. certificate: PEM; empty: without TLS. client_ca:
    PEM of the authorities whose clients alone are let in; empty: clients need no certificate.
    """

    host: str
    port: int
    certificate: str = ""
    key: str = ""
    shares_port: bool = False  # with other processes of this host
    client_ca: str = ""


class GrpcServer:
    """Listens from its making on, and serves from start to stop."""

    def __init__(
        self, address: GrpcAddress, services: Services, preparer: Preparer, distribution: str
    ) -> None:
        """Raises OSError naming the port, or the certificate, that cannot be used."""
        calls = GrpcCalls(services, preparer)
        self._services = services
        self._server = grpc.aio.server(options=_options(services.limits, address.shares_port))
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._watching: asyncio.Task[None] | None = None
        generate_pb2_grpc.add_GenerateServicer_to_server(
            grpc_generate.GenerateService(calls), self._server
        )
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            open_inference.OpenInference(calls, version(distribution)), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.port = _bind(self._server, address)

    async def start(self) -> None:
        await self._server.start()
        self._watching = asyncio.create_task(self._tell_health())
        _log.info("the gateway answers gRPC", port=self.port)

    async def stop(self, drain_s: float) -> None:
        """Takes no new calls; those that run have drain_s to end, then they fail as draining."""
        if self._watching is not None:
            self._watching.cancel()
        await self._health.enter_graceful_shutdown()
        deadline = asyncio.get_running_loop().call_later(drain_s, self._services.fail_all)
        try:
            await self._server.stop(drain_s + _AFTER_DRAIN_S)
        finally:
            deadline.cancel()

    async def _tell_health(self) -> None:
        """The server is healthy while a worker is live."""
        told: bool | None = None
        status = health_pb2.HealthCheckResponse
        while True:
            is_ready = self._services.source.snapshot().is_ready
            if is_ready is not told:
                told = is_ready
                for name in ("", *_SERVICES):
                    await self._health.set(name, status.SERVING if is_ready else status.NOT_SERVING)
            await asyncio.sleep(_READY_EVERY_S)


@contextlib.asynccontextmanager
async def serving(
    server: GrpcServer | None, stop: asyncio.Event, drain_s: float
) -> AsyncIterator[None]:
    """Meanwhile the server serves, if there is one; it drains from `stop` on."""
    if server is None:
        yield
        return
    await server.start()
    draining = asyncio.create_task(_drain(server, stop, drain_s))
    try:
        yield
    finally:
        stop.set()
        await draining


async def _drain(server: GrpcServer, stop: asyncio.Event, drain_s: float) -> None:
    await stop.wait()
    await server.stop(drain_s)


def _options(limits: Limits, shares_port: bool) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", limits.max_body_bytes),
        ("grpc.max_metadata_size", MAX_HEADER_BYTES),
        ("grpc.so_reuseport", int(shares_port)),
        ("grpc.keepalive_time_ms", 60_000),  # finds clients that vanished without a word
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    )


def _bind(server: grpc.aio.Server, address: GrpcAddress) -> int:
    target = f"{address.host}:{address.port}"
    if ":" in address.host:
        target = f"[{address.host}]:{address.port}"
    try:
        if address.certificate:
            bound = server.add_secure_port(target, _credentials(address))
        else:
            bound = server.add_insecure_port(target)
    except RuntimeError as error:
        raise OSError(f"the gateway's gRPC port {target} is not free") from error
    if not bound:
        raise OSError(f"the gateway's gRPC port {target} is not free")
    return bound


def _credentials(address: GrpcAddress) -> grpc.ServerCredentials:
    certificate = Path(address.certificate).read_bytes()
    key = Path(address.key).read_bytes() if address.key else certificate
    authorities = Path(address.client_ca).read_bytes() if address.client_ca else None
    return grpc.ssl_server_credentials([(key, certificate)], authorities, authorities is not None)
