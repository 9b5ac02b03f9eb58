"""The operator's page of a local cluster, in the process of `baton up`."""

from dataclasses import replace

from baton.probe import local_host
from baton.up_config import UpConfig
from dashboard.config import DEFAULT_PORT, DashboardConfig
from dashboard.server import DashboardServer
from runtime.clock import Clock


async def start_dashboard(
    config: UpConfig, operator_url: str, clock: Clock
) -> DashboardServer | None:
    """None where none is wanted, or there is no operator API. It listens on this host only.

    Raises OSError where the port that was asked for is taken.
    """
    if config.dashboard_port < 0 or not operator_url:
        return None
    page = DashboardConfig(
        port=config.dashboard_port or DEFAULT_PORT,
        operator_url=operator_url,
        gateway_urls=f"http://{local_host(config.host)}:{config.port}",
    )
    try:
        return await _started(page, clock)
    except OSError:
        if config.dashboard_port:
            raise
        return await _started(replace(page, port=0), clock)


async def _started(page: DashboardConfig, clock: Clock) -> DashboardServer:
    server = DashboardServer(page, clock)
    await server.start()
    return server
