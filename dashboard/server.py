"""The dashboard as a server: wires its parts and listens."""

import asyncio

import uvicorn

from dashboard.app import DashboardParts, build_app
from dashboard.config import DashboardConfig
from dashboard.feed import GatewayFeed
from dashboard.history import PrometheusHistory
from dashboard.listeners import Listeners
from dashboard.upstream import Upstream
from runtime.clock import Clock, wall_time_s
from runtime.http_server import HttpServer, listen

_WHAT = "the dashboard"
_STOP_S = 1


class DashboardServer:
    """Whoever starts it stops it."""

    def __init__(self, config: DashboardConfig, clock: Clock) -> None:
        self.port = 0
        self._config = config
        self._clock = clock
        self._listeners = Listeners()
        self._upstream: Upstream | None = None
        self._server: HttpServer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Port 0 takes a free one. Raises OSError naming the port when it is taken."""
        config = self._config
        listener = listen(config.host, config.port, _WHAT)
        self.port = int(listener.getsockname()[1])
        self._upstream = upstream = Upstream()
        feed = GatewayFeed(
            config.gateways, config.gateway_key, upstream, self._listeners, self._clock, wall_time_s
        )
        prometheus = None
        if config.prometheus_url:
            token = config.prometheus_token
            prometheus = PrometheusHistory(config.prometheus_url, token, upstream)
        app = build_app(
            DashboardParts(
                operator_url=config.operator_url.rstrip("/"),
                upstream=upstream,
                feed=feed,
                listeners=self._listeners,
                prometheus=prometheus,
                wall_s=wall_time_s,
            )
        )
        self._server = HttpServer(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_STOP_S,
            ),
            _WHAT,
        )
        self._tasks = [
            asyncio.create_task(self._server.serve(sockets=[listener]), name="dashboard"),
            asyncio.create_task(feed.run(), name="dashboard-feed"),
        ]
        try:
            await self._server.listens(self._tasks[0])
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends every stream and frees the port."""
        if self._server is None or self._upstream is None:
            return
        self._listeners.close()
        self._server.should_exit = True
        serving, feeding = self._tasks
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await asyncio.wait({serving})  # what it may have failed by, `start` has told
        await self._upstream.close()
        self._listeners.check_integrity()
