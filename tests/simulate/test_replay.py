"""A recorded router's placements, made again offline: the same, or the difference is named."""

from pathlib import Path
from random import Random

import msgspec
import pytest
from toy_cluster import make_profile, make_spec, make_workload

from loadtest.faults import parse_fault
from loadtest.order import Order, plan_workload
from router.candidates import Candidate, ClusterView
from router.config import RouterConfig
from router.prefix_map import PrefixMap
from router.recorded import RecordedHomes, RecordedNotes, RecordedPlacer, Recorder
from router.recording import (
    Head,
    Outcome,
    Placed,
    RecordingError,
    RecordingFile,
    Swept,
    read_recording,
)
from router.replica import PlacementNote
from runtime.clock import VirtualClock
from simulate.errors import SimulationError
from simulate.replay import replay, replay_entries
from simulate.run import simulate
from simulate.strategies import STRATEGIES
from wire.messages import GenerateRequest, RequestTerms, Role, SamplingParams

FAULTS = tuple(
    parse_fault(kind, text)
    for kind, text in (("kill", "decode@5s"), ("freeze", "prefill@9s+4s"), ("cut", "any@15s+4s"))
)
CONVERSATIONS = Order(
    rate="6",
    requests=120,
    turns=2,
    think="1",
    input_tokens="64-900",
    output_tokens="40",
    prefix_tokens=48,
    prefix_groups=3,
)


def recorded(path, split="2:3", order=CONVERSATIONS, **changes):
    profile = make_profile(load_s=1.0, kv_tokens=1 << 15)
    spec = make_spec(split, profile=profile, recording=str(path), **changes)
    return simulate(spec, plan_workload(order))


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=lambda strategy: strategy.name)
def test_every_policy_places_a_recorded_run_again_alike(strategy, tmp_path):
    path = tmp_path / "run.jsonl"
    outcome = recorded(path, policy=strategy.policy, local_prefill_max_tokens=strategy.local_tokens)
    done = replay(path)
    assert done.num_placements >= len(outcome.records) == 120
    assert done.differences == []


@pytest.mark.parametrize("seed", range(3))
def test_deaths_hangs_and_cut_links_replay_alike(seed, tmp_path):
    path = tmp_path / "run.jsonl"
    recorded(path, policy="predicted", seed=seed, faults=FAULTS)
    kinds = {type(entry).__name__ for entry in read_recording(path)}
    assert {"Listed", "FrameCame", "Ended", "Checked", "Started", "Cancelled", "Failed"} <= kinds
    done = replay(path)
    assert done.num_placements > 120, "some requests were placed again"
    assert done.differences == []


def test_refusals_are_replayed_too(tmp_path):
    path = tmp_path / "run.jsonl"
    order = Order(rate="20", requests=200, input_tokens="900", output_tokens="30")
    recorded(path, "1:1", order, policy="predicted", ttft_slo_ms=200.0, reject_ratio=1.0)
    done = replay(path)
    assert done.num_refused > 0 and done.differences == []


def test_another_decision_is_named_with_both_outcomes(tmp_path):
    path = tmp_path / "run.jsonl"
    recorded(path)
    entries = list(read_recording(path))
    number, placed = next(
        (i, entry) for i, entry in enumerate(entries) if isinstance(entry, Placed)
    )
    forged = msgspec.structs.replace(placed, outcome=Outcome(decode="decode-9", kind="local"))
    entries[number] = forged
    (difference,) = replay_entries(iter(entries)).differences
    assert difference.ordinal == 0 and difference.recorded.decode == "decode-9"
    assert difference.replayed == placed.outcome


def test_an_event_that_is_missing_changes_placements(tmp_path):
    path = tmp_path / "run.jsonl"
    recorded(path)
    kept = (entry for entry in read_recording(path) if type(entry).__name__ != "Reserved")
    assert replay_entries(kept).differences


def test_a_recording_has_neither_prompts_nor_answers_nor_sessions(tmp_path):
    path = tmp_path / "run.jsonl"
    recorded(path)
    frames = [e.frame for e in read_recording(path) if type(e).__name__ == "FrameCame"]
    assert frames
    head = path.read_text().partition("\n")[0]
    assert "cluster_token" not in head and "redis_url" not in head


class TwoWorkers:
    """What a placer may choose among."""

    def view(self):
        names = ("d0", "d1")
        return ClusterView(decode=tuple(Candidate(n, 1, Role.DECODE, 0, 0, 0, 99) for n in names))


def test_replicas_tell_each_other_sessions_by_their_own_names_and_no_recording_has_them(tmp_path):
    path, heard, clock = tmp_path / "run.jsonl", [], VirtualClock()
    config = RouterConfig("", "x", recording=str(path))
    recorder, prefix_map = Recorder(config, clock), PrefixMap(100)
    for name in ("d0", "d1"):
        prefix_map.add_worker(name)
    tell, homes = lambda *told: heard.append(told[-1]), RecordedHomes(60.0)
    more = None, None, tell, homes
    placer = RecordedPlacer(recorder, config, TwoWorkers(), prefix_map, recorder, Random(0), *more)
    notes = RecordedNotes(recorder, prefix_map, homes, 2.0)
    notes.take(PlacementNote((), (), "ann", "d1", {}), 0.0, 0.0)
    terms = RequestTerms(session="ann")
    for _ in range(8):
        request = GenerateRequest("r", (1,) * 50, SamplingParams(), (), terms=terms)
        placement, _ = placer.place(request, 0, frozenset())
        assert placement.decode == "d1"
    recorder.close()
    assert heard == ["ann"] * 8 and "ann" not in path.read_text()


def test_a_cut_off_last_line_is_left_out(tmp_path):
    path = tmp_path / "run.jsonl"
    recorded(path)
    text = path.read_bytes()
    path.write_bytes(text[: len(text) * 2 // 3])
    done = replay(path)
    assert done.num_placements > 50 and done.differences == []


def test_a_full_recording_ends_and_replays_as_far_as_it_goes(tmp_path):
    path = tmp_path / "small.jsonl"
    file = RecordingFile(path, 200)
    file.write(Head(0.0, 1, {"client_id": "x"}))
    for number in range(100):
        file.write(Swept(float(number)))
    file.close()
    assert path.stat().st_size <= 200
    assert replay(path).num_entries > 0


def test_a_full_disk_ends_the_recording_and_not_the_router(tmp_path):
    file = RecordingFile(tmp_path / "r.jsonl", 1 << 20)
    file._file.close()
    file._file = Path("/dev/full").open("wb")  # noqa: SIM115 - close() closes it
    for number in range(50):
        file.write(Swept(float(number)))
    file.close()


def test_two_routers_do_not_write_one_recording(tmp_path):
    path = tmp_path / "one.jsonl"
    file = RecordingFile(path, 1000)
    file.write(Head(0.0, 1, {"client_id": "x"}))
    with pytest.raises(RecordingError, match="another router"):
        RecordingFile(path, 1000)
    file.close()
    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("[]\n", "line 1"),
        ('{"is":"swept","at_s":1}\n', "begins with its head"),
        ('{"is":"head","at_s":0,"format":9,"config":{}}\n', "format 9"),
        ('{"is":"head","at_s":0,"format":1,"config":{"client_id":"x","no_such":1}}\n', "no_such"),
        (
            '{"is":"head","at_s":0,"format":1,"config":{"client_id":"x"}}\n'
            '{"is":"opening","at_s":1,"worker":7}\n',
            "does not follow",
        ),
        (
            '{"is":"head","at_s":0,"format":1,"config":{"client_id":"x"}}\n'
            '{"is":"listed","at_s":1,"snapshot":"/////w=="}\n',
            "no list of workers",
        ),
    ],
)
def test_what_is_no_recording_is_said(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(RecordingError, match=says):
        replay(path)


def test_a_recording_needs_the_units_of_live_workers(tmp_path):
    with pytest.raises(SimulationError, match="unit-tokens 16"):
        make_spec(recording=str(tmp_path / "x"), unit_tokens=512)


def test_a_run_without_a_recording_writes_nothing_and_is_the_same(tmp_path):
    workload = make_workload([(0.01 * i, 300, 5) for i in range(40)])
    plain = simulate(make_spec("2:2"), workload)
    noted = simulate(make_spec("2:2", recording=str(tmp_path / "r")), workload)
    assert plain.records == noted.records
