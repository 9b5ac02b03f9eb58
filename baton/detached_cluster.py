"""A cluster of its own, as `baton up --detach` starts it, for as long as a measurement takes."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from baton.state_dir import ClusterState, StateDir
from runtime.settings import child_environment

_START_TIMEOUT_S = 180.0


class ClusterStartError(Exception):
    """No cluster could be started; the message says why."""


@contextmanager
def detached_cluster(
    prefill: int, decode: int, up_flags: Sequence[str] = ()
) -> Iterator[ClusterState]:
    """A cluster on free ports with a state directory of its own; it is gone afterwards.

    up_flags: further flags of `baton up`. Raises ClusterStartError.
    """
    with tempfile.TemporaryDirectory(prefix="baton-detached-") as folder:
        environ = child_environment({"BATON_STATE_DIR": folder})
        split = ["--prefill", str(prefill), "--decode", str(decode)]
        ports = ["--port", "0", "--control-port", "0", "--metrics-port", "0"]
        baton = [sys.executable, "-m", "baton"]
        try:
            said = _start([*baton, "up", "--detach", *ports, *split, *up_flags], environ)
            state = StateDir(Path(folder)).running()
            if said or state is None:
                message = f"no cluster of {prefill}:{decode} could be started: {said}"
                raise ClusterStartError(message)
            yield state
        finally:
            subprocess.run([*baton, "down"], env=environ, capture_output=True, check=False)


def _start(words: Sequence[str], environ: Mapping[str, str]) -> str:
    """Runs a command that ends once the cluster serves; what it said, when it failed."""
    try:
        ended = subprocess.run(
            words,
            env=environ,
            capture_output=True,
            text=True,
            timeout=_START_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not ready within {_START_TIMEOUT_S:g} s"
    return (ended.stderr or ended.stdout).strip() if ended.returncode else ""
