"""`baton down`: ends the cluster that `baton up` started here."""

import psutil
import typer

from baton.state_dir import StateDir

STOP_TIMEOUT_S = 60.0


def command() -> None:
    """Stop the cluster that runs on this host."""
    state_dir = StateDir.of_environment()
    state = state_dir.running()
    if state is None:
        typer.echo(f"No cluster runs here (state directory {state_dir.path}).", err=True)
        raise typer.Exit(1)
    try:
        process = psutil.Process(state.pid)
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        process.kill()  # its children die with it
        typer.echo(f"pid {state.pid} did not end in {STOP_TIMEOUT_S:.0f} s and was killed.")
    state_dir.clear()
    typer.echo(f"Stopped {state.http_url} (pid {state.pid}).")
