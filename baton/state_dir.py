"""What a local cluster leaves on disk for `baton down` and `baton status`: one per folder."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import psutil

from runtime.settings import environment


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A running `baton up`. process_start tells its process from a later one of the same pid."""

    pid: int
    process_start: str
    http_url: str
    control_address: str
    cluster_token: str
    model: str
    log_dir: str
    operator_url: str = ""
    operator_token: str = ""
    dashboard_url: str = ""
    is_ready: bool = False


class AlreadyRunning(Exception):
    """Another `baton up` owns the state directory."""


class StateDir:
    """The folder BATON_STATE_DIR, by default ~/.local/state/baton; readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_environment(cls) -> "StateDir":
        given = environment("STATE_DIR")
        return cls(Path(given) if given else Path.home() / ".local" / "state" / "baton")

    @property
    def log_dir(self) -> Path:
        return self.path / "logs"

    @property
    def up_log(self) -> Path:
        """Where a detached `baton up` prints."""
        return self.path / "up.log"

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log_dir.mkdir(exist_ok=True)

    def acquire(self) -> IO[bytes]:
        """Owns the folder until the returned file is closed or this process ends.

        Raises AlreadyRunning, saying by whom.
        """
        self.create()
        lock = (self.path / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise AlreadyRunning(self._describe_owner()) from None
        return lock

    def write(self, state: ClusterState) -> None:
        partial = self._file.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(msgspec.json.encode(state))
        partial.replace(self._file)

    def clear(self) -> None:
        self._file.unlink(missing_ok=True)

    def running(self) -> ClusterState | None:
        """The cluster that runs here; what a killed one left behind does not count."""
        try:
            state = msgspec.json.decode(self._file.read_bytes(), type=ClusterState)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return state if process_start(state.pid) == state.process_start else None

    @property
    def _file(self) -> Path:
        return self.path / "cluster.json"

    def _describe_owner(self) -> str:
        owner = self.running()
        what = f"pid {owner.pid}, {owner.http_url}" if owner else "it is starting or stopping"
        return (
            f"a cluster already runs from {self.path} ({what}): "
            "stop it with `baton down`, or set BATON_STATE_DIR to another folder"
        )


def process_start(pid: int) -> str:
    """When a process started, in a form to compare for equality; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        try:
            return f"{psutil.Process(pid).create_time():.0f}"
        except psutil.Error:
            return ""
    fields = stat.rpartition(")")[2].split()  # the name in parentheses may hold spaces
    return "" if fields[0] == "Z" else f"ticks {fields[19]}"
