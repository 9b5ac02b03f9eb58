"""The router as a process of its own: `baton router`, `python -m router`."""

import asyncio

from router.server import RouterServer
from router.server_config import RouterServerConfig
from router.trace_log import TraceLogError
from runtime.clock import SystemClock
from runtime.lifecycle import die_with_parent, new_id, stop_event
from runtime.log import configure, get_logger


def run(config: RouterServerConfig) -> int:
    """Serves until SIGTERM or SIGINT and gives the exit code: 2 when it cannot start."""
    if config.parent_pid:
        die_with_parent(config.parent_pid)
    configure("router", level=config.log_level)
    return asyncio.run(_serve(config))


async def _serve(config: RouterServerConfig) -> int:
    log = get_logger("router")
    stop = stop_event()
    try:
        server = RouterServer(config, SystemClock(), new_id)
        await server.start()
    except (OSError, ValueError, TraceLogError) as error:
        log.error("cannot start", reason=str(error))
        return 2
    log.info("listening", address=f"{config.host}:{server.port}")
    await stop.wait()
    log.info("draining", seconds=config.drain_s)
    await server.stop()
    return 0
