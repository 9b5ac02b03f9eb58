"""A router that listens: gRPC service with health and reflection, and its metrics."""

import asyncio
from collections.abc import Callable

from router.config import RouterConfig
from router.router import Router
from router.server_config import RouterServerConfig
from router.service import RouterFront
from runtime.clock import Clock
from runtime.metrics import GATEWAY_METRICS, Metrics
from runtime.metrics_server import MetricsServer
from wire.router_rpc import HealthState, add_router_service
from wire.rpc import bind, build_server

_READY_PERIOD_S = 0.1


class RouterServer:
    """Whoever starts it stops it. Health says SERVING while a worker is live, until it stops."""

    def __init__(
        self, config: RouterServerConfig, clock: Clock, new_id: Callable[[str], str]
    ) -> None:
        """Raises ValueError for a policy or profile that does not exist, TraceLogError for a bad
        trace log."""
        self.metrics = Metrics(GATEWAY_METRICS)
        self.metrics.gauge("baton_gateway_info", model="").set(1)
        self.router = Router(
            RouterConfig(
                control_address=config.control_address,
                client_id=new_id("router"),
                cluster_token=config.cluster_token,
                policy=config.policy,
                profile=config.router_profile,
                ttft_slo_ms=config.ttft_slo_ms,
                tpot_slo_ms=config.tpot_slo_ms,
                reject_ratio=config.reject_ratio,
                hedge=config.hedge,
                hedge_min_ms=config.hedge_min_ms,
                hedge_share=config.hedge_share,
                shadow_policies=config.shadow_policies,
                shadow_share=config.shadow_share,
                redis_url=config.router_redis,
                trace_log=config.trace_log,
                recording=config.recording,
            ),
            clock,
            self.metrics,
        )
        self.port = 0
        self._config = config
        self._new_id = new_id
        self._metrics_server: MetricsServer | None = None
        self._readiness: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens. Raises OSError, naming the port, when one is taken."""
        config = self._config
        self._server = build_server(config.cluster_token)
        front = RouterFront(self.router, lambda: self._new_id("req"))
        self._health = add_router_service(self._server, front)
        await self._health.set_serving(False)
        self.port = bind(self._server, config.host, config.port)
        if config.metrics_port:
            exposition = self.metrics.exposition
            self._metrics_server = MetricsServer(config.host, config.metrics_port, exposition)
            self._metrics_server.start()
        await self.router.start()
        await self._server.start()
        self._readiness = asyncio.create_task(_follow(self.router, self._health))

    async def stop(self) -> None:
        """Takes no new calls; running answers have drain_s to end, then UNAVAILABLE ends them."""
        if self._readiness is not None:
            self._readiness.cancel()
            await asyncio.wait({self._readiness})
        await self._health.set_serving(False)
        await self._server.stop(self._config.drain_s)
        await self.router.stop()
        if self._metrics_server is not None:
            self._metrics_server.stop()
        self.router.check_integrity()


async def _follow(router: Router, health: HealthState) -> None:
    """Keeps the health service's word true, until cancelled."""
    was_ready = False
    while True:
        is_ready = router.snapshot().is_ready
        if is_ready != was_ready:
            was_ready = is_ready
            await health.set_serving(is_ready)
        await asyncio.sleep(_READY_PERIOD_S)
