"""Native code compiled at first use: once for all processes of a user, kept in a private folder."""

import fcntl
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.settings import user_cache_dir

BUILD_TIMEOUT_S = 300.0


class BuildError(Exception):
    """Native code cannot be compiled or loaded on this host; the message says why."""


def private_folder(name: str, given: Path | None = None) -> Path:
    """A folder that only this user may write to: what is in it is executed. given: in its place.

    Raises BuildError when there is none.
    """
    fallback = Path(tempfile.gettempdir()) / f"baton-{name}-{os.getuid()}"
    for folder in (given,) if given else (user_cache_dir() / name, fallback):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        status = folder.stat()
        is_private = status.st_uid == os.getuid() and not status.st_mode & 0o022
        if is_private and os.access(folder, os.W_OK):
            return folder
    raise BuildError("no private folder for compiled code can be written")


def processor_features() -> str:
    """What machine code may use on this host."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def build_once(library: Path, build: Callable[[Path], None]) -> None:
    """Calls `build` with the path to write unless `library` is there. Safe when several processes
    start at once: one builds, the others wait for it."""
    if library.exists():
        return
    with open(library.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            built = Path(scratch) / library.name
            build(built)
            built.replace(library)


def find_compiler(*names: str) -> str:
    """The first that is on the PATH. Raises BuildError."""
    for name in names:
        if found := shutil.which(name):
            return found
    raise BuildError(f"no compiler ({' or '.join(names)}) on the PATH")


def run_compiler(command: Sequence[str]) -> None:
    """Raises BuildError with what the compiler said."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise BuildError(f"{command[0]} did not finish: {error}") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
