"""Compiles the CPU operators at first use and keeps the library in a per-user cache."""

import ctypes
import hashlib
import logging
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from runtime.compiled import (
    BuildError,
    build_once,
    find_compiler,
    private_folder,
    processor_features,
    run_compiler,
)

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "cpu_ops.cpp"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-Wno-psabi")


KernelBuildError = BuildError
"""The CPU operators cannot be compiled or loaded on this host; the message says why."""


def load_library(cache: Path | None = None) -> ctypes.CDLL:
    """The compiled operators, built into `cache` (default: the user's) unless they are there.

    Safe when several processes start at once: one builds, the others wait for it.
    Raises KernelBuildError when there is no compiler, or when it fails.
    """
    try:
        library = private_folder("kernels", cache) / f"cpu_ops-{_key()}.so"
        build_once(library, _build)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise KernelBuildError(f"the compiled operators cannot be used: {error}") from error


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
        processor_features(),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def _openmp_runtime() -> Path | None:
    """The OpenMP library that torch brought: a second one would start its own threads."""
    return next(iter(sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))), None)


def _build(built: Path) -> None:
    compiler = find_compiler("g++", "c++")
    log.info("compiling the CPU operators with %s", compiler)
    compiled = built.with_suffix(".o")
    _run([compiler, *FLAGS, "-c", str(SOURCE), "-o", str(compiled)])
    runtime = _openmp_runtime()
    openmp = str(runtime) if runtime else "-fopenmp"
    _run([compiler, "-shared", str(compiled), openmp, "-o", str(built)])


def _run(command: Sequence[str]) -> None:
    run_compiler(command)
