"""The fabric's bench: what it moves, and that it runs at all."""

import pytest

from baton.bench import kv
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
