"""The dashboard as a server: wires its parts and listens."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from dashboard.app import DashboardParts, build_app
from dashboard.config import DashboardConfig
from dashboard.feed import GatewayFeed
from dashboard.history import PrometheusHistory
from dashboard.listeners import Listeners
from dashboard.upstream import Upstream
from runtime.clock import Clock, wall_time_s
from runtime.log import get_logger

_STOP_S = 1
_log = get_logger("dashboard")


class DashboardServer:
    """Whoever starts it stops it."""

    def __init__(self, config: DashboardConfig, clock: Clock) -> None:
        self.port = 0
        self._config = config
        self._clock = clock
        self._listeners = Listeners()
        self._upstream: Upstream | None = None
        self._server: _Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Port 0 takes a free one. Raises OSError naming the port when it is taken."""
        config = self._config
        listener = _listen(config.host, config.port)
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
        self._server = _Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_STOP_S,
            )
        )
        self._tasks = [
            asyncio.create_task(self._server.serve(sockets=[listener]), name="dashboard"),
            asyncio.create_task(feed.run(), name="dashboard-feed"),
        ]

    async def stop(self) -> None:
        """Ends every stream and frees the port."""
        if self._server is None or self._upstream is None:
            return
        self._listeners.close()
        self._server.should_exit = True
        serving, feeding = self._tasks
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await serving
        await self._upstream.close()
        self._listeners.check_integrity()


class _Server(uvicorn.Server):
    """Leaves the signals to the process, which has more to stop than this server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            _log.info("the dashboard listens", url=f"http://{host}:{port}")


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError naming the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = f"the dashboard's port {host}:{port} is not free: {error.strerror}"
        raise OSError(reason) from error
    return listener
