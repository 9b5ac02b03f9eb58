"""The dashboard as a process of its own: `baton dashboard`."""

import asyncio

from dashboard.config import DashboardConfig
from dashboard.server import DashboardServer
from runtime.clock import SystemClock
from runtime.lifecycle import die_with_parent, stop_event
from runtime.log import configure, get_logger


def run(config: DashboardConfig) -> int:
    """Serves until SIGTERM or SIGINT. Gives the exit code: 2 for a port that is taken."""
    if config.parent_pid:
        die_with_parent(config.parent_pid)
    configure("dashboard", level=config.log_level)
    return asyncio.run(_serve(config))


async def _serve(config: DashboardConfig) -> int:
    stop = stop_event()
    server = DashboardServer(config, SystemClock())
    try:
        await server.start()
    except OSError as error:
        get_logger("dashboard").error("cannot start", reason=str(error))
        return 2
    await stop.wait()
    await server.stop()
    return 0
