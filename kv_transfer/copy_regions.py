"""Copies many regions between two mapped pools in one call, or gathers them in a buffer, by a
compiled kernel where there is a compiler, else by memmove, region by region."""

import ctypes
import hashlib
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kv_transfer.plan import CopyTable
from runtime.compiled import (
    BuildError,
    build_once,
    find_compiler,
    private_folder,
    processor_features,
    run_compiler,
)
from runtime.log import get_logger

ExtentTable = npt.NDArray[np.int64]
"""[num_extents, 2]: offset in the pool, bytes."""
CopyRegions = Callable[[int, int, CopyTable], None]
"""(address of the target's pool, address of the source's, table). Runs without the interpreter
lock while it copies."""
Gather = Callable[[int, int, ExtentTable], None]
"""(address of the buffer, address of the pool, extents of it, which lie one behind the other in the
buffer). As CopyRegions."""

SOURCE = Path(__file__).with_name("copy_regions.c")
_COPY, _GATHER = "baton_copy_regions", "baton_gather"
FLAGS = ("-O3", "-march=native", "-std=c11", "-fPIC", "-shared")


def load_copy_regions(cache: Path | None = None) -> CopyRegions:
    """Compiles at first use, which takes part of a second; a host without a compiler gets the
    slower copy and a warning. cache: in place of the user's."""
    return _loaded(_COPY, by_memmove, cache)


def load_gather(cache: Path | None = None) -> Gather:
    """As `load_copy_regions`."""
    return _loaded(_GATHER, gather_by_memmove, cache)


def compiled(cache: Path | None = None, name: str = _COPY) -> CopyRegions:
    """Raises BuildError."""
    library = private_folder("kernels", cache) / f"copy_regions-{_key()}.so"
    try:
        build_once(library, _build)
        function = ctypes.CDLL(str(library))[name]
    except OSError as error:
        raise BuildError(f"the compiled copy cannot be used: {error}") from error
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]

    def copy(target: int, source: int, table: npt.NDArray[np.int64]) -> None:
        rows = np.ascontiguousarray(table, np.int64)
        function(target, source, rows.ctypes.data, len(rows))

    return copy


def by_memmove(target: int, source: int, table: CopyTable) -> None:
    for source_offset, target_offset, num_bytes in table.tolist():
        ctypes.memmove(target + target_offset, source + source_offset, num_bytes)


def gather_by_memmove(target: int, source: int, table: ExtentTable) -> None:
    for offset, num_bytes in table.tolist():
        ctypes.memmove(target, source + offset, num_bytes)
        target += num_bytes


def _loaded(name: str, plain: CopyRegions, cache: Path | None) -> CopyRegions:
    try:
        return compiled(cache, name)
    except BuildError as error:
        get_logger("kv_transfer").warning("kv copies are slower", reason=str(error))
        return plain


def _build(built: Path) -> None:
    run_compiler([find_compiler("gcc", "cc"), *FLAGS, str(SOURCE), "-o", str(built)])


def _key() -> str:
    """Names what the machine code must fit; an image may bring the library and no compiler."""
    parts = (SOURCE.read_text(), *FLAGS, platform.machine(), processor_features())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
