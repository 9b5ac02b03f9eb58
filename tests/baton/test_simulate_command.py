"""`baton simulate` as a shell runs it: tables, files, and input that cannot be used."""

import json
from pathlib import Path

import pytest

from baton.__main__ import main

LINE = '{{"timestamp": {at}, "input_length": 1200, "output_length": 20, "hash_ids": [0, 1, {i}]}}\n'


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(LINE.format(at=400 * i, i=i + 2) for i in range(20)))
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def test_a_run_prints_its_figures_and_writes_the_load_tests_files(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, html_file = tmp_path / "r.json", tmp_path / "r.html"
    words = ["--trace", trace, "--split", "1:1", "--slo", "ttft:500 tpot:20"]
    assert run("simulate", *words, "--json", json_file, "--html", html_file) == 0
    shown = capsys.readouterr().out
    assert "TTFT" in shown and "engines busy: prefill-0" in shown
    result = json.loads(json_file.read_text())
    assert result["completed"] == 20 and result["median_ttft_ms"] > 10
    assert "<svg" in html_file.read_text()


def test_the_same_command_writes_the_same_bytes(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    texts = []
    for _ in range(2):
        assert run("simulate", "--trace", trace, "--policy", "random", "--json", path) == 0
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]


def test_a_sweep_prints_one_row_a_cell_and_marks_the_best_split(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.json"
    grid = "split=1:2,2:1 policy=baton,random"
    words = ["simulate", "--trace", trace, "--sweep", grid, "--jobs", 1, "--json", path]
    assert run(*words, "--slo", "ttft:500") == 0
    shown = capsys.readouterr().out
    assert shown.count("baton") == 2 and shown.count("random") == 2
    assert shown.count("*") == 3  # a mark for each policy, and what it means
    cells = json.loads(path.read_text())["cells"]
    assert [cell["split"] for cell in cells] == ["1:2", "2:1"] * 2


def test_a_capacity_says_how_many_of_each_kind_and_which_is_cheapest(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--capacity", "qwen3-0.6b@h100,qwen3-0.6b@l40s", "--slo", "ttft:400 tpot:20"]
    assert run("simulate", "--trace", trace, *words, "--jobs", 1) == 0
    shown = capsys.readouterr().out
    assert "qwen3-0.6b@h100" in shown and "1.00*" in shown


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--split", "four"], "not a split such as 3:5"),
        (["--profile", "b200"], "'b200' is no profile"),
        (["--policy", "best"], "no policy 'best'"),
        (["--sweep", "speed=2"], "one each of split="),
        (["--rate", "-3"], "rate"),
        (["--slo", "latency:3"], "latency:3"),
        (["--unit-tokens", "40"], "multiple of 16"),
        (["--host-kv-memory", "much"], "'much' is not a size"),
        (["--host-kv-memory", "1GiB", "--cluster", "c.toml"], "each pool's host_kv_memory"),
        (["--capacity", "qwen3-0.6b@h100"], "needs an --slo"),
    ],
)
def test_what_cannot_be_simulated_is_one_line_and_exit_code_two(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("simulate", *words) == 2
    assert reason in capsys.readouterr().err


def test_a_broken_line_of_a_trace_is_named(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace.write_text(trace.read_text() + LINE.format(at=1, i=99))
    assert run("simulate", "--trace", trace) == 2
    assert "line 21" in capsys.readouterr().err


def test_faults_and_a_cluster_file_are_simulated_and_reported(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = tmp_path / "cluster.toml"
    pool = '[[pool]]\nrole = "{}"\nprofile = "llama-3.1-8b@h200"\ncount = 2\n'
    slo = '[[slo]]\nname = "all"\nshare = 1.0\nttft_ms = 9000\ntpot_ms = 90\n'
    cluster.write_text(pool.format("prefill") + pool.format("decode") + slo)
    words = ["--trace", trace, "--cluster", cluster, "--kill", "decode@2s"]
    assert run("simulate", *words) == 0
    shown = capsys.readouterr().out
    assert "2:2 workers" in shown and "kill decode at 2 s" in shown
    assert "all=ttft:9000 tpot:90" in shown


def test_a_cluster_file_goes_with_no_split_of_a_sweep(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = tmp_path / "cluster.toml"
    cluster.write_text('[[pool]]\nrole = "decode"\nprofile = "llama-3.1-8b@h200"\ncount = 2\n')
    assert run("simulate", "--trace", trace, "--cluster", cluster, "--sweep", "split=1:1") == 2
    assert "leave split= out" in capsys.readouterr().err


RECORDING = Path(__file__).parents[1] / "simulate" / "recording.jsonl"


def test_a_recording_of_a_live_cluster_is_placed_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """Of `baton up`; where a decision changes on purpose, record it again (docs/simulation.md)."""
    assert run("simulate", "--replay", RECORDING) == 0
    assert "all the same" in capsys.readouterr().out


def test_a_recorded_simulation_replays_and_a_change_is_shown(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    assert run("simulate", "--trace", trace, "--split", "2:2", "--recording", path) == 0
    assert run("simulate", "--replay", path) == 0
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"is":"reserved"' not in line]
    path.write_text("".join(kept))
    capsys.readouterr()
    assert run("simulate", "--replay", path) == 1
    shown = capsys.readouterr().out
    assert "differ" in shown and "recorded" in shown and "replayed" in shown


def test_a_replay_of_no_recording_is_said(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("simulate", "--replay", trace) == 2
    assert "line 1" in capsys.readouterr().err
    assert run("simulate", "--replay", tmp_path / "none") == 2
    assert run("simulate", "--trace", trace, "--sweep", "rate=1,2", "--recording", "x") == 2


def test_a_capacity_is_for_the_classes_of_a_cluster_file(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, path = tmp_path / "cluster.toml", tmp_path / "c.json"
    pool = '[[pool]]\nrole = "decode"\nprofile = "llama-3.1-8b@h200"\ncount = 8\n'
    words = ["simulate", "--trace", trace, "--capacity", "llama-3.1-8b@h200", "--cluster", cluster]
    needs = []
    for ttft_ms in (2000, 1):
        slo = f'[[slo]]\nname = "all"\nshare = 1.0\nttft_ms = {ttft_ms}\ntpot_ms = 30\n'
        cluster.write_text(pool + slo)
        assert run(*words, "--max-workers", 2, "--jobs", 1, "--json", path) == 0
        needs.append(json.loads(path.read_text())["needs"]["llama-3.1-8b@h200"])
    assert needs[0]["num_gpus"] == 1 and needs[1] is None
