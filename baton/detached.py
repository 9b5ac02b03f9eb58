"""`baton up --detach`: the same command in a session of its own, watched until it serves."""

import subprocess
import sys
import time
from collections.abc import Mapping

import typer

from baton.local_cluster import as_flags
from baton.state_dir import StateDir

_POLL_S = 0.1


def start_detached(
    state_dir: StateDir,
    flags: Mapping[str, object],
    program: tuple[str, ...] = (sys.executable, "-m", "baton"),
) -> int:
    """Starts `baton up` with `flags` in the background and gives 0 once it serves.

    What it prints until then is printed here too. If it ends instead, its exit code is given.
    """
    state_dir.create()
    with state_dir.up_log.open("wb") as log:
        process = subprocess.Popen(
            [*program, "up", *as_flags(dict(flags))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        exit_code = _wait(state_dir, process)
    except KeyboardInterrupt:
        process.terminate()
        exit_code = process.wait()
    typer.echo(state_dir.up_log.read_text(errors="replace"), nl=False, err=exit_code != 0)
    return exit_code


def _wait(state_dir: StateDir, process: subprocess.Popen[bytes]) -> int:
    while process.poll() is None:
        state = state_dir.running()
        if state is not None and state.pid == process.pid and state.is_ready:
            process.returncode = 0  # it lives on: no warning that nobody waits for it
            return 0
        time.sleep(_POLL_S)
    return process.returncode
