"""The router's benchmark: every row is there and makes sense, on a small scale."""

import sys

import pytest

from baton.bench import relay, router
from baton.bench.row import Row
from baton.commands.bench import BENCHES


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(router, "_PLACEMENTS", 20)
    monkeypatch.setattr(router, "_MAP_BLOCKS", 40_000)
    monkeypatch.setattr(router, "_MEMORY_BLOCKS", 2_000)
    monkeypatch.setattr(router, "_FULL_BLOCKS", 800)
    monkeypatch.setattr(relay, "_LATENCIES", 10)


def test_every_row_of_placement_has_its_bound():
    rows = {row.name: row for row in router.run(1)}
    assert {"router.place.8.p50", "router.place.64.p99", "router.place.1000.p50"} <= set(rows)
    assert {"router.match", "router.events", "router.memory"} <= set(rows)
    assert {"router.rebuild.100", "router.rebuild.100.full"} <= set(rows)
    assert all(row.value > 0 and row.baseline == "bound" for row in rows.values())
    assert rows["router.memory"].ratio < 1.3


def test_a_restarted_gateway_has_its_map_of_a_million_blocks_within_a_second_of_cpu():
    frames = router.snapshot_frames(100, 10_000)
    assert min(router.rebuild_s(frames) for _ in range(2)) < 1.0


def test_dynamos_index_is_set_beside_the_figures_that_it_has(tmp_path, monkeypatch):
    script = tmp_path / "peer.py"
    script.write_text("import json, sys\nprint(json.dumps({'router.match': len(sys.argv)}))\n")
    monkeypatch.setattr(router, "_DYNAMO_SCRIPT", script)
    peer = router.measure_dynamo(sys.executable, 64, 512, 100)
    rows = [Row("router.match", 12.0, "us", "bound", 80.0, 0.15)]
    rows += [Row("router.events", 9.0, "blocks/s", "bound", 3.0, 3.0)]
    beside = router.beside(rows, peer | {"router.events": 3.0})
    assert [(row.name, row.baseline_value, row.ratio) for row in beside] == [
        ("router.match.dynamo", 6.0, 2.0),
        ("router.events.dynamo", 3.0, 1 / 3),
    ]


def test_the_relay_is_measured_beside_a_bare_session():
    rows = relay.run(1)
    assert [row.name for row in rows] == [
        "router.relay.added.p50",
        "router.relay.request",
        "router.relay.token",
    ]
    assert all(row.baseline_value > 0 for row in rows)


def test_the_command_knows_it():
    assert "router" in BENCHES
