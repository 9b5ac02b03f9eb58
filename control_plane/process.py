"""The control plane as a process of its own: `baton control`."""

import asyncio

from control_plane.actuators.actuator import ActuatorConflict, ActuatorRefused
from control_plane.autopilot import ModeSimulator
from control_plane.config import ControlConfig
from control_plane.platform import actuator_of, leadership_of, store_of, watch_unready
from control_plane.server import ControlServer
from runtime.clock import SystemClock
from runtime.lifecycle import collect_rarely, die_with_parent, stop_event
from runtime.log import configure, get_logger
from runtime.settings import SettingsError


def run(config: ControlConfig, modes: ModeSimulator | None = None) -> int:
    """Serves until SIGTERM or SIGINT. Gives the exit code: 2 for a taken port or wrong setting."""
    if config.parent_pid:
        die_with_parent(config.parent_pid)
    configure("control", level=config.log_level)
    collect_rarely()
    return asyncio.run(_serve(config, modes))


async def _serve(config: ControlConfig, modes: ModeSimulator | None) -> int:
    log = get_logger("control_plane")
    stop = stop_event()
    clock = SystemClock()
    servers: list[ControlServer] = []  # one, once it is built
    try:
        leadership = leadership_of(config, clock)
        actuator = actuator_of(config, leadership, lambda: servers[0].serving() if servers else {})
        if actuator is not None:
            await actuator.start()
        server = ControlServer(
            config,
            clock,
            actuator=actuator,
            actuator_name=config.actuator,
            leadership=leadership,
            store=store_of(config),
            modes=modes,
        )
        servers.append(server)
        await server.start()
    except (OSError, SettingsError, ActuatorRefused, ActuatorConflict) as error:
        log.error("cannot start", reason=str(error))
        return 2
    log.info("listening", address=f"{config.host}:{server.port}")
    watching = asyncio.create_task(watch_unready(actuator, leadership)) if actuator else None
    await stop.wait()
    if watching is not None:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    await server.stop()
    await server.actuator.close()
    return 0
