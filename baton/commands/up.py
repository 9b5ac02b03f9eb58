"""`baton up`: a whole cluster on this host with one command."""

import asyncio
import os
import secrets
import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TextIO

import typer

from baton.banner import banner, opening
from baton.commands.flags import load_or_exit, with_flags_of
from baton.detached import start_detached
from baton.local_cluster import ClusterStartError, LocalCluster
from baton.modelled_model import with_modelled_model
from baton.preflight import ModelFacts, PreflightError, check_model, check_ports, check_settings
from baton.probe import local_host
from baton.state_dir import AlreadyRunning, ClusterState, StateDir, process_start
from baton.up_config import UpConfig
from control_plane.actuators.process_spec import ProcessExit
from runtime.clock import SystemClock
from runtime.lifecycle import die_with_parent, free_port, stop_event
from runtime.log import configure
from runtime.settings import SettingsError

DetachFlag = Annotated[bool, typer.Option("--detach", help="Return once the cluster serves.")]


def up(detach: DetachFlag = False, config: Path | None = None, **flags: object) -> None:
    """Start a cluster on this host, print its addresses, and stay until Ctrl-C."""
    settings = load_or_exit(UpConfig, flags, config, "up")
    state_dir = StateDir.of_environment()
    if detach:
        raise typer.Exit(start_detached(state_dir, {**flags, "config": config}))
    if settings.parent_pid:
        die_with_parent(settings.parent_pid)
    try:
        raise typer.Exit(_run(settings, config, state_dir))
    except (PreflightError, AlreadyRunning, SettingsError) as error:
        typer.echo(f"baton up: {error}", err=True)
        raise typer.Exit(2) from error


command = with_flags_of(UpConfig, up)


def _run(config: UpConfig, config_file: Path | None, state_dir: StateDir) -> int:
    check_settings(config)
    if config.profile:
        config = with_modelled_model(config)
    model = check_model(config.model_directory, config.model_name, config.max_model_len)
    with state_dir.acquire():
        check_ports(config)
        config = replace(
            config,
            port=config.port or free_port(config.host),
            grpc_port=config.grpc_port or (config.port + 1 if config.port else free_port()),
            cluster_token=config.cluster_token or secrets.token_hex(16),
            operator_token=config.operator_token or secrets.token_hex(16),
        )
        with (state_dir.log_dir / "control.log").open("a") as log:
            _configure_log(config, log)
            try:
                return asyncio.run(_serve(config, config_file, model, state_dir))
            finally:
                state_dir.clear()


def _configure_log(config: UpConfig, log: TextIO) -> None:
    configure("control", level=config.log_level, stream=None if config.verbose else log)


async def _serve(
    config: UpConfig, config_file: Path | None, model: ModelFacts, state_dir: StateDir
) -> int:
    stop = stop_event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, stop.set)
    cluster = LocalCluster(
        config,
        SystemClock(),
        config_file=config_file,
        log_dir=state_dir.log_dir,
        on_exit=_tell_exit,
    )
    typer.echo(opening(config, model))
    try:
        await cluster.start()
        state = _state_of(config, cluster, state_dir)
        state_dir.write(state)
        if await _ready_or_stopped(cluster, stop):
            status = await cluster.status()
            typer.echo(banner(config, model, state, status, cluster.kv_memory))
            state_dir.write(replace(state, is_ready=True))
            await stop.wait()
            typer.echo("Stopping.")
        return 0
    except (ClusterStartError, OSError) as error:
        where = "" if config.verbose else f"\nMore in {state_dir.log_dir}"
        typer.echo(f"baton up: {error}{where}", err=True)
        return 1
    finally:
        _kill_on_second_signal(cluster)
        await cluster.stop()


async def _ready_or_stopped(cluster: LocalCluster, stop: asyncio.Event) -> bool:
    """True when the cluster serves, False when the user ends it before that."""
    ready = asyncio.create_task(cluster.wait_ready())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ready.done():
        ready.cancel()
        await asyncio.wait({ready})
        return False
    await ready
    return True


def _kill_on_second_signal(cluster: LocalCluster) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cluster.kill)


def _state_of(config: UpConfig, cluster: LocalCluster, state_dir: StateDir) -> ClusterState:
    return ClusterState(
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        http_url=f"{cluster.gateway_scheme}://{local_host(config.host)}:{config.port}",
        control_address=cluster.control_address,
        cluster_token=config.cluster_token,
        model=config.model_name,
        log_dir=str(state_dir.log_dir),
        operator_url=cluster.operator_url,
        operator_token=config.operator_token,
        dashboard_url=cluster.dashboard_url,
    )


def _tell_exit(end: ProcessExit) -> None:
    """Process deaths are worth a line on the terminal, also when the logs are in files."""
    how = f"exit code {end.exit_code}" if end.exit_code >= 0 else f"signal {-end.exit_code}"
    after = "starting it again" if end.will_restart else f"given up: {end.last_line}"
    typer.echo(f"baton up: {end.name} (pid {end.pid}) ended with {how}; {after}", err=True)
