"""A control plane that listens: registry, gRPC service, health service, metrics."""

import asyncio
import contextlib
from collections.abc import Callable

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from control_plane.config import ControlConfig
from control_plane.registry import Registry
from control_plane.service import ControlPlane
from runtime.clock import Clock
from runtime.metrics import CONTROL_METRICS, Metrics
from runtime.metrics_server import MetricsServer
from wire.cluster import ProcessStatus
from wire.rpc import add_control_service, bind, build_server

_STOP_GRACE_S = 0.2


class ControlServer:
    """Whoever starts it stops it. One registry in memory: a restart learns it from the beats."""

    def __init__(
        self,
        config: ControlConfig,
        clock: Clock,
        processes: Callable[[], tuple[ProcessStatus, ...]] = tuple,
    ) -> None:
        self.metrics = Metrics(CONTROL_METRICS)
        self.registry = Registry(clock, config.beat_timeout_s)
        self.plane = ControlPlane(
            self.registry, clock, self.metrics, settle_s=config.settle_s, processes=processes
        )
        self.port = 0
        self._config = config
        self._metrics_server: MetricsServer | None = None
        self._expiry: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens. Raises OSError, naming the port, when one is taken."""
        config = self._config
        self._server = build_server(config.cluster_token)
        add_control_service(self._server, self.plane)
        servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        self.port = bind(self._server, config.host, config.port)
        if config.metrics_port:
            exposition = self.metrics.exposition
            self._metrics_server = MetricsServer(config.host, config.metrics_port, exposition)
            self._metrics_server.start()
        await self._server.start()
        self._expiry = asyncio.create_task(self.plane.watch_expiry(), name="registry-expiry")

    async def stop(self) -> None:
        """Ends every stream after a short grace and frees the ports."""
        if self._expiry is not None:
            self._expiry.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._expiry
        await self._server.stop(_STOP_GRACE_S)
        if self._metrics_server is not None:
            self._metrics_server.stop()
        self.registry.check_integrity()
