"""The control plane as a process of its own: `baton control`."""

import asyncio

from control_plane.config import ControlConfig
from control_plane.server import ControlServer
from runtime.clock import SystemClock
from runtime.lifecycle import die_with_parent, stop_event
from runtime.log import configure, get_logger
from runtime.settings import SettingsError


def run(config: ControlConfig) -> int:
    """Serves until SIGTERM or SIGINT. Gives the exit code: 2 for a taken port or wrong setting."""
    if config.parent_pid:
        die_with_parent(config.parent_pid)
    configure("control", level=config.log_level)
    return asyncio.run(_serve(config))


async def _serve(config: ControlConfig) -> int:
    log = get_logger("control_plane")
    stop = stop_event()
    try:
        server = ControlServer(config, SystemClock())
        await server.start()
    except (OSError, SettingsError) as error:
        log.error("cannot start", reason=str(error))
        return 2
    log.info("listening", address=f"{config.host}:{server.port}")
    await stop.wait()
    await server.stop()
    return 0
