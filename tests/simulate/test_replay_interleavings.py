"""Whatever happens to a router, in whatever order: its placements are made again alike, offline."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaotic_router import ChaoticRouter

from router import placer
from router.placement import Placement, place
from router.policies.policy import RequestFacts
from router.recording import AnyEntry, read_recording
from simulate.replay import Replayed, replay_entries

Decision = tuple[Any, ...]
Seen = list[Decision]
REDUNDANT = {"Head", "Placed", "Forgiven"}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """All that each decision is made from, and the order of its maps."""
    noted: Seen = []

    def noting(facts: RequestFacts, *rest: Any) -> Placement | None:
        orders = (facts.held_blocks, facts.confirmed_blocks, facts.host_blocks)
        noted.append((facts, rest[0], *map(tuple, orders)))
        return place(facts, *rest)

    monkeypatch.setattr(placer, "place", noting)
    return noted


def run(seed: int, path: Path, num_steps: int = 300, looks: bool = True) -> None:
    ChaoticRouter(Random(seed), path, num_steps, looks).run()


def replayed(path: Path, left_out: str = "") -> Replayed:
    return replay_entries(e for e in read_recording(path) if type(e).__name__ != left_out)


def check_alike(seeds: Sequence[int], path: Path, seen: Seen, num_steps: int) -> None:
    for seed in seeds:
        seen.clear()
        run(seed, path, num_steps)
        live = seen.copy()
        seen.clear()
        done = replayed(path)
        assert done.differences == [], seed
        assert len(live) == len(seen) > 0, seed
        for ordinal, (here, there) in enumerate(zip(live, seen, strict=True)):
            assert here == there, (seed, ordinal)


def check_looks_leave_no_trace(
    seeds: Sequence[int], path: Path, seen: Seen, num_steps: int
) -> None:
    for seed in seeds:
        seen.clear()
        run(seed, path, num_steps)
        watched, decisions = path.read_bytes(), seen.copy()
        seen.clear()
        run(seed, path, num_steps, looks=False)
        assert seen == decisions, seed
        assert path.read_bytes() == watched, seed


def test_each_decision_is_made_again_from_the_very_same_facts(tmp_path: Path, seen: Seen) -> None:
    check_alike(range(10), tmp_path / "run.jsonl", seen, 300)


def test_a_look_at_the_workers_changes_nothing_that_comes_after_it(
    tmp_path: Path, seen: Seen
) -> None:
    check_looks_leave_no_trace(range(100, 105), tmp_path / "run.jsonl", seen, 200)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundreds_of_runs_and_long_ones_are_made_again_alike(tmp_path: Path, seen: Seen) -> None:
    path = tmp_path / "run.jsonl"
    check_alike(range(1000, 1600), path, seen, 300)
    check_alike(range(5000, 5015), path, seen, 4000)
    check_looks_leave_no_trace(range(8000, 8100), path, seen, 300)


@pytest.mark.slow
def test_every_kind_of_entry_restores_something_that_placement_reads(
    tmp_path: Path, seen: Seen
) -> None:
    """Else the runs above would prove nothing of it."""
    needed: set[str] = set()
    kinds: set[str] = set()
    for seed in range(20):
        path = tmp_path / f"{seed}.jsonl"
        seen.clear()
        run(seed, path, 2000)
        live = seen.copy()
        here = {type(entry).__name__ for entry in read_recording(path)}
        kinds |= here
        for kind in here - needed - REDUNDANT:
            seen.clear()
            try:
                differs = bool(replayed(path, kind).differences) or seen != live
            except (ValueError, AssertionError):
                differs = True
            if differs:
                needed.add(kind)
    assert kinds == {kind.__name__ for kind in AnyEntry.__args__}
    assert needed == kinds - REDUNDANT


@pytest.mark.slow
def test_a_process_with_other_hashes_of_strings_places_alike(tmp_path: Path) -> None:
    for seed in range(3):
        path = tmp_path / f"{seed}.jsonl"
        run(seed, path, 2000)
        command = [sys.executable, "-m", "baton", "simulate", "--replay", str(path)]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": str(seed + 1)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
