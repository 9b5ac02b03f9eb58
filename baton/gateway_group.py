"""Several gateway processes on one port, kept alive: `baton gateway --processes N`."""

import asyncio
import os
import sys
from dataclasses import MISSING, fields, replace
from tempfile import TemporaryDirectory

from control_plane.actuators.local import LocalActuator
from control_plane.actuators.process_spec import ProcessExit, ProcessSpec
from gateway.config import GatewayConfig
from runtime.clock import SystemClock
from runtime.lifecycle import check_port_free, die_with_parent, free_port, stop_event
from runtime.log import configure, get_logger

_KIND = "gateway"
_DRAIN_MARGIN_S = 10.0
_OWN_FILES = ("usage_log", "trace_log")  # no two processes write one of these
_log = get_logger("gateways")


def group_flags(folder: str, number: int, count: int) -> dict[str, object]:
    """What a gateway is told of the others on its port."""
    return {"processes": count, "group_dir": folder, "group_number": number}


def run_group(config: GatewayConfig) -> int:
    """Serves until SIGTERM or SIGINT; gives the exit status: 0 after a drain, 1 where the
    processes cannot be kept alive."""
    configure("gateways", level=config.log_level)
    if config.parent_pid:
        die_with_parent(config.parent_pid)
    config = replace(config, port=config.port or free_port(config.host))
    try:
        for port, what in ((config.port, "HTTP"), (config.grpc_listen_port, "gRPC")):
            if port:
                check_port_free(config.host, port, what)
    except OSError as error:
        _log.error("the gateways cannot start", reason=str(error))
        return 1
    return asyncio.run(_keep(config))


async def _keep(config: GatewayConfig) -> int:
    stop = stop_event()
    given_up = asyncio.Event()

    def ended(end: ProcessExit) -> None:
        if end.was_asked:
            return
        _log.warning("a gateway ended", name=end.name, exit_code=end.exit_code, pid=end.pid)
        if not end.will_restart:
            given_up.set()
            stop.set()

    with TemporaryDirectory(prefix="baton-gateways-") as folder:
        actuator = LocalActuator(
            {_KIND: lambda number: _spec(config, folder, number)}, SystemClock(), on_exit=ended
        )
        await actuator.scale(_KIND, config.processes)
        await stop.wait()
        await actuator.stop()
    return int(given_up.is_set())


def _spec(config: GatewayConfig, folder: str, number: int) -> ProcessSpec:
    own = {name: f"{path}.{number}" for name in _OWN_FILES if (path := getattr(config, name))}
    group = group_flags(folder, number, config.processes)
    told = replace(config, **own, **group, parent_pid=os.getpid())  # type: ignore[arg-type]
    argv = (sys.executable, "-m", "baton", "gateway", *_flags(told))
    env = {"BATON_CLUSTER_TOKEN": config.cluster_token}
    return ProcessSpec(
        f"gateway-{number}", _KIND, argv, env, drain_s=config.drain_s + _DRAIN_MARGIN_S
    )


def _flags(config: GatewayConfig) -> list[str]:
    """Every setting that is not its default, but for secrets."""
    flags: list[str] = []
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "cluster_token" or (
            field.default is not MISSING and value == field.default
        ):
            continue
        name = f"--{field.name.replace('_', '-')}"
        flags += [name] if value is True else [name, str(value)]
    return flags
