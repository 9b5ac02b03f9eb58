"""`baton down`: ends the cluster that `baton up` started here."""

import time

import psutil
import typer

from baton.state_dir import ClusterState, StateDir, process_start
from runtime.clock import SystemClock

STOP_TIMEOUT_S = 60.0
_POLL_S = 0.05


def command() -> None:
    """Stop the cluster that runs on this host."""
    state_dir = StateDir.of_environment()
    state = state_dir.running()
    if state is None:
        typer.echo(f"No cluster runs here (state directory {state_dir.path}).", err=True)
        raise typer.Exit(1)
    try:
        process = psutil.Process(state.pid)  # refuses to signal a later process of this pid
        process.terminate()
        if not _ends_in_time(state):
            process.kill()  # its children die with it
            typer.echo(f"pid {state.pid} did not end in {STOP_TIMEOUT_S:.0f} s and was killed.")
    except psutil.NoSuchProcess:
        pass
    state_dir.clear()
    typer.echo(f"Stopped {state.http_url} (pid {state.pid}).")


def _ends_in_time(state: ClusterState) -> bool:
    """A zombie counts as ended: in some containers nobody collects it."""
    clock = SystemClock()
    deadline_s = clock.now() + STOP_TIMEOUT_S
    while process_start(state.pid) == state.process_start:
        if clock.now() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True
