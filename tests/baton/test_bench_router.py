"""The router's benchmark: every row is there and makes sense, on a small scale."""

import pytest

from baton.bench import relay, router
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
