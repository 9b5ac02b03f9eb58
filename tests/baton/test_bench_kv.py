"""The fabric's bench: what it moves, and that it runs at all."""

import os
import threading

import pytest

from baton.bench import kv
from baton.bench.core_pair import CorePair, NoPairError, hold, nearest_pair
from baton.bench.kv_lists import POOL, contiguous, runs, scattered
from baton.bench.row import Row, rows_or_reason


def test_the_scattered_lists_have_512_blocks_and_hardly_any_neighbours():
    for blocks in scattered():
        assert len(set(blocks.source)) == len(set(blocks.target)) == 512
        assert blocks.num_bytes == 16 << 20
        assert len(runs(blocks.source)) > 450


def test_the_contiguous_list_is_one_run_of_256_mib():
    (blocks,) = contiguous()
    assert runs(blocks.source) == [(0, 256 << 20)]


def test_runs_join_neighbours_only():
    size = POOL.region_bytes
    assert runs((4, 5, 7, 6)) == [(4 * size, 2 * size), (7 * size, size), (6 * size, size)]


PAIR = CorePair(2, 0, (1, 3, 4), 50.0)


def test_each_process_of_a_row_has_its_core_and_several_connections_have_all() -> None:
    assert PAIR.apart.reader == {2} and PAIR.apart.source == {0}
    assert PAIR.shared.reader == PAIR.shared.source == {0, 2}
    assert PAIR.spread.reader == {2, 1, 4} and PAIR.spread.source == {0, 3}


def test_the_nearest_pair_is_of_cores_that_this_process_may_use() -> None:
    try:
        pair = nearest_pair()
    except NoPairError as error:
        pytest.skip(str(error))
    cores = {pair.reader, pair.source, *pair.others}
    assert cores == os.sched_getaffinity(0) and len(pair.others) == len(cores) - 2
    assert pair.round_trip_ns > 0


def test_a_thread_is_held_where_it_is_told_and_others_stay() -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    def look() -> None:
        hold(frozenset((max(before),)))
        hold(frozenset())
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [{max(before)}] and os.sched_getaffinity(0) == before


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts of a row each; the cores are far from each other behind the first."""
    trips_ns = iter((420.0, 51.0))
    rows = [[Row(name, 1.0, "GB/s", "bare", 1.0, 1.0)] for name in ("one", "two")]
    monkeypatch.setattr(kv, "_parts", lambda repeats, pair: iter(rows))
    monkeypatch.setattr(kv, "nearest_pair", lambda: PAIR)
    monkeypatch.setattr(kv, "round_trip_ns", lambda first, second: next(trips_ns))


def test_a_host_that_moved_a_core_shows_in_the_pairs_row(parts: None) -> None:
    *measured, row = kv.run(1)
    assert [each.name for each in measured] == ["one", "two"]
    assert (row.name, row.value, row.unit) == ("kv.pair.round_trip", 420.0, "ns")
    assert row.baseline == "cores 2 and 0, before" and row.ratio == pytest.approx(50 / 420)


def test_nothing_is_held_where_that_is_switched_off(parts: None) -> None:
    assert [row.name for row in kv.run(1, any_cores=True)] == ["one", "two"]


def test_rows_are_measured_also_where_no_pair_can_be_chosen(
    parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> CorePair:
        raise NoPairError("this process may use one core only")

    monkeypatch.setattr(kv, "nearest_pair", refuse)
    first, *measured = kv.run(1)
    assert first.failure == "no row is held on two cores: this process may use one core only"
    assert [row.name for row in measured] == ["one", "two"]


@pytest.mark.slow
def test_each_transport_has_its_rows():
    names = {row.name for row in kv.run(1)}
    for transport in ("shm", "tcp"):
        for figure in ("scattered", "contiguous", "latency"):
            assert f"kv.{transport}.{figure}" in names
        assert f"kv.idle.{transport}" in names


def test_what_cannot_be_measured_is_a_row_that_says_why() -> None:
    def measure() -> list[Row]:
        raise RuntimeError("a pull over tcp failed: no room")

    (row,) = rows_or_reason("kv.tcp.scattered", measure)
    assert (row.name, row.failure) == (
        "kv.tcp.scattered",
        "RuntimeError: a pull over tcp failed: no room",
    )
    assert rows_or_reason("kv.tcp.scattered", lambda: [row]) == [row]
