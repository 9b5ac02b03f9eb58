"""The KV fabric beside the wire: all rows of two processes, held on one pair of cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from baton.bench.core_pair import ANYWHERE, CorePair, NoPairError, nearest_pair, round_trip_ns
from baton.bench.kv_digest import digest_rows
from baton.bench.kv_rates import BARE, transport_rows
from baton.bench.kv_tls import tls_rows
from baton.bench.row import Row, failed_row

_PAIR = "kv.pair.round_trip"


def run(repeats: int, *, any_cores: bool = False) -> Iterator[Row]:
    """What two processes move, with the fabric's processes and those of its baselines on the same
    two cores: the pair nearest to each other of those that this process may use. any_cores: the
    kernel chooses, for each process anew.

    kv.pair.round_trip: nanoseconds of a word to the other core and back, the longest of what was
    measured behind each part, beside what it was before them; far below 1, the host has moved one
    of the cores, and ratios of this run compare different places.
    """
    pair, failure = (None, "") if any_cores else _pair()
    if failure:
        yield failed_row(_PAIR, failure)
    trips_ns: list[float] = []
    with _own_cores():
        for part in _parts(repeats, pair):
            yield from part
            if pair is not None:
                trips_ns.append(round_trip_ns(pair.reader, pair.source) or float("inf"))
    if pair is not None:
        yield _pair_row(pair, max(trips_ns))


def _parts(repeats: int, pair: CorePair | None) -> Iterator[list[Row]]:
    """Each is measured when it is asked for."""
    for transport in BARE:
        yield transport_rows(transport, repeats, pair)
    cores = (pair.shared if pair is not None else ANYWHERE).reader
    yield digest_rows(repeats, cores)
    yield tls_rows(repeats, cores)


def _pair() -> tuple[CorePair | None, str]:
    try:
        return nearest_pair(), ""
    except NoPairError as error:
        return None, f"no row is held on two cores: {error}"


def _pair_row(pair: CorePair, last_ns: float) -> Row:
    first_ns = pair.round_trip_ns
    return Row(_PAIR, last_ns, "ns", f"{pair.name}, before", first_ns, first_ns / last_ns)


@contextmanager
def _own_cores() -> Iterator[None]:
    """Those of before, when what runs inside has ended."""
    cores = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
