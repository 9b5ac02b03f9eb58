"""Compiles the CPU operators at first use and keeps the library in a per-user cache."""

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from runtime.settings import user_cache_dir

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "cpu_ops.cpp"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-Wno-psabi")
BUILD_TIMEOUT_S = 300.0


class KernelBuildError(Exception):
    """The CPU operators cannot be compiled or loaded on this host; the message says why."""


def load_library(cache: Path | None = None) -> ctypes.CDLL:
    """The compiled operators, built into `cache` (default: the user's) unless they are there.

    Safe when several processes start at once: one builds, the others wait for it.
    Raises KernelBuildError when there is no compiler, or when it fails.
    """
    try:
        library = _directory(cache) / f"cpu_ops-{_key()}.so"
        if not library.exists():
            _build_once(library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise KernelBuildError(f"the compiled operators cannot be used: {error}") from error


def _directory(cache: Path | None) -> Path:
    """A folder that only this user may write to: what is in it is executed."""
    fallback = Path(tempfile.gettempdir()) / f"baton-kernels-{os.getuid()}"
    for folder in (cache,) if cache else (user_cache_dir() / "kernels", fallback):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        status = folder.stat()
        if (
            status.st_uid == os.getuid()
            and not status.st_mode & 0o022
            and os.access(folder, os.W_OK)
        ):
            return folder
    raise KernelBuildError("no private folder for the compiled operators can be written")


def _key() -> str:
    """Names what the machine code must fit: the source, torch's OpenMP, the processor's features.

    The compiler is left out, so that a library that an image brings serves where there is none.
    """
    digest = hashlib.sha256()
    for source in sorted(SOURCE.parent.glob("cpu_*.[ch]*")):
        digest.update(source.name.encode() + source.read_bytes())
    for part in (
        *FLAGS,
        torch.__version__,
        str(_openmp_runtime()),
        platform.machine(),
        _features(),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def _features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _openmp_runtime() -> Path | None:
    """The OpenMP library that torch brought: a second one would start its own threads."""
    return next(iter(sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))), None)


def _build_once(library: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise KernelBuildError("no C++ compiler (g++ or c++) on the PATH")
    with open(library.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return
        log.info("compiling the CPU operators with %s into %s", compiler, library)
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            built = Path(scratch) / library.name
            compiled = built.with_suffix(".o")
            _run([compiler, *FLAGS, "-c", str(SOURCE), "-o", str(compiled)])
            runtime = _openmp_runtime()
            openmp = str(runtime) if runtime else "-fopenmp"
            _run([compiler, "-shared", str(compiled), openmp, "-o", str(built)])
            built.replace(library)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise KernelBuildError(f"{command[0]} did not finish in {BUILD_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise KernelBuildError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
