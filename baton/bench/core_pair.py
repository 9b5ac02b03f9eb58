"""Two cores for the two processes of a row: a host moves virtual cores, and those that are near
each other pass bytes several times as fast as those that are far."""

import ctypes
import hashlib
import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from runtime.compiled import BuildError, build_once, find_compiler, private_folder, run_compiler

_SOURCE = Path(__file__).with_name("core_pair.c")
_FLAGS = ("-O2", "-std=c11", "-fPIC", "-shared", "-pthread")
_LIMIT_MS = 60  # of one pair: long enough that both cores are free together once
_MAX_CORES = 8  # whose pairs are measured


class NoPairError(Exception):
    """No two cores can be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class CorePair:
    """reader and source: a core each. others: what this process may use beside them."""

    reader: int
    source: int
    others: tuple[int, ...]
    round_trip_ns: float

    @property
    def name(self) -> str:
        return f"cores {self.reader} and {self.source}"

    @property
    def apart(self) -> "Placement":
        """Each process on one core."""
        return Placement(frozenset((self.reader,)), frozenset((self.source,)))

    @property
    def shared(self) -> "Placement":
        """Both processes on both cores, for what has more threads than one on a side."""
        both = frozenset((self.reader, self.source))
        return Placement(both, both)

    @property
    def spread(self) -> "Placement":
        """All cores, half of them for each process."""
        return Placement(
            frozenset((self.reader, *self.others[::2])),
            frozenset((self.source, *self.others[1::2])),
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """The cores of a row's processes, alike for the fabric and what it is measured against."""

    reader: frozenset[int]
    source: frozenset[int]


ANYWHERE = Placement(frozenset(), frozenset())


def hold(cores: frozenset[int]) -> None:
    """Of this thread and the threads and processes that it starts; empty: where they are."""
    if cores:
        os.sched_setaffinity(0, cores)


def nearest_pair() -> CorePair:
    """The pair with the shortest round trip of the cores that this process may use.

    Raises NoPairError.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise NoPairError("this process may use one core only")
    found = {
        pair: trip_ns
        for pair in combinations(cores[:_MAX_CORES], 2)
        if (trip_ns := round_trip_ns(*pair)) is not None
    }
    if not found:
        raise NoPairError("no two cores were free at the same time")
    reader, source = min(found, key=lambda pair: found[pair])
    others = tuple(core for core in cores if core not in (reader, source))
    return CorePair(reader, source, others, found[reader, source])


def round_trip_ns(first: int, second: int) -> float | None:
    """Of a word between two cores, the shortest seen; None when they were never free together.

    Raises NoPairError without a compiler.
    """
    try:
        library = private_folder("kernels") / f"core_pair-{_key()}.so"
        build_once(library, _build)
        function = ctypes.CDLL(str(library)).baton_round_trip_ns
    except (BuildError, OSError) as error:
        raise NoPairError(str(error)) from error
    function.restype = ctypes.c_double
    trip_ns = float(function(first, second, _LIMIT_MS))
    return trip_ns if trip_ns >= 0 else None


def _build(built: Path) -> None:
    run_compiler([find_compiler("gcc", "cc"), *_FLAGS, str(_SOURCE), "-o", str(built)])


def _key() -> str:
    return hashlib.sha256("\0".join((_SOURCE.read_text(), *_FLAGS)).encode()).hexdigest()[:24]
