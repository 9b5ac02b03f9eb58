"""The engine's benchmark, over a model small enough to run in a moment."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baton.bench import engine as bench
from baton.bench import host_tier
from baton.bench.cpu_ceiling import MemoryReader, decode_floor_s, num_weights
from baton.bench.row import Row
from engine.weights import random_model

TINY = replace(bench.QWEN3_06B, num_layers=1, vocab_size=256, layer_windows=(None,))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    model = random_model(TINY, torch.bfloat16, seed=1)
    return bench.EngineBench(model, 1, MemoryReader(1 << 24)).rows()


def test_every_figure_stands_beside_its_baseline(rows: list[Row]) -> None:
    names = ["read", "decode.b1", "decode.b8", "decode.b32", "prefill.2048", "prefill.40_of_2048"]
    assert [row.name for row in rows] == [f"engine.{name}" for name in names]
    for row in rows:
        better = (
            row.baseline_value / row.value if row.unit == "ms" else row.value / row.baseline_value
        )
        assert row.ratio == pytest.approx(better) and row.value > 0


def test_a_prompt_s_way_back_from_the_host_stands_beside_its_computation() -> None:
    rows = host_tier.measure(random_model(TINY, torch.bfloat16, seed=1), 1, num_tokens=64)
    assert [row.name for row in rows] == [
        "engine.host.save",
        "engine.host.load",
        "engine.host.return.64",
    ]
    for row in rows:
        assert row.value > 0 and row.ratio > 0


def test_a_peer_is_set_beside_the_figures_that_it_has() -> None:
    rows = [Row("a", 30.0, "tokens/s", "roofline", 40.0, 0.75), Row("b", 2.0, "ms", "x", 1.0, 0.5)]
    beside = bench.beside(rows, {"a": 10.0, "b": 8.0, "c": 1.0})
    assert [(row.name, row.baseline_value, row.ratio) for row in beside] == [
        ("a.vllm", 10.0, 3.0),
        ("b.vllm", 8.0, 4.0),
    ]


def test_the_peer_runs_in_its_own_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "peer.py"
    script.write_text("import json, sys\nprint('noise')\nprint(json.dumps({'n': len(sys.argv)}))\n")
    monkeypatch.setattr(bench, "VLLM_SCRIPT", script)
    assert bench.measure_vllm(sys.executable, 2) == {"n": 3}


def test_a_decode_step_is_bound_by_memory_alone_or_products_in_a_batch() -> None:
    weights, cache = num_weights(TINY), 512 * TINY.kv_bytes_per_token(torch.bfloat16)
    assert decode_floor_s(TINY, 1, 512, bytes_per_s=1.0, flops=1e9) == 2 * weights + cache
    slow_products = decode_floor_s(TINY, 8, 512, bytes_per_s=1.0, flops=1.0)
    assert slow_products == 2 * weights * 8 + 8 * cache


def test_rows_are_printed_as_json_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("engine.read", 1.0, "GB/s", "torch.sum", 2.0, 0.5)
    monkeypatch.setattr(bench, "run", lambda repeats, vllm_python: [row])
    monkeypatch.setattr(sys, "argv", ["engine", "--repeats", "1"])
    bench.main()
    assert json.loads(capsys.readouterr().out)["name"] == "engine.read"
