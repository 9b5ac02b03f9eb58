"""The command as a shell runs it, against a scripted server; and faults in a local cluster."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from baton.__main__ import main
from baton.commands.loadtest_faults import LocalFaults
from baton.commands.loadtest_flags import LoadFlags
from baton.commands.loadtest_sweep import parse_grid
from baton.state_dir import StateDir
from loadtest.errors import LoadtestError
from loadtest.faults import Fault
from wire.cluster import ClusterStatus, Fingerprint, ProcessStatus, WorkerInfo, WorkerStatus
from wire.kv import FabricAddress
from wire.messages import Role, WorkerReport

BATON = (sys.executable, "-m", "baton", "loadtest")
QUICK = ("--rate", "30", "--duration", "1s", "--input-tokens", "8", "--output-tokens", "2",
         "--arrivals", "constant", "--max-lag-ms", "5000")  # fmt: skip


@dataclass
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "BATON_STATE_DIR": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}


async def baton(environ: dict[str, str], *words: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *BATON, *words, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def test_a_run_writes_its_files_and_says_what_it_saw(
    tools: Any, environ: dict[str, str], tmp_path: Path
) -> None:
    files = [str(tmp_path / name) for name in ("r.json", "r.jsonl", "r.html")]
    async with tools.serving(lambda n, body: tools.answer([0.01, 0.01])) as server:
        flags = ("--json", files[0], "--jsonl", files[1], "--html", files[2])
        ended = await baton(environ, server.url, *QUICK, *flags, "--slo", "ttft:5000 tpot:5000")
    assert (ended.code, ended.err) == (0, "")
    assert "goodput" in ended.out and "dispatch lag" in ended.out and "100.0% met" in ended.out
    result = json.loads(Path(files[0]).read_text())
    assert (result["completed"], result["failed"], result["model_id"]) == (28, 0, "demo")
    assert result["baton_loadtest"]["facts"]["host"]["python"]
    assert len(Path(files[1]).read_text().splitlines()) == 30
    assert Path(files[2]).read_text().startswith("<!doctype html>")


async def test_a_missed_objective_is_the_exit_code(tools: Any, environ: dict[str, str]) -> None:
    async with tools.serving(lambda n, body: tools.answer([0.05])) as server:
        ended = await baton(environ, server.url, *QUICK, "--slo", "ttft:1", "--quiet")
        assert ended.code == 1
        ended = await baton(environ, server.url, *QUICK, "--slo", "ttft:1", "--attain", "0")
        assert ended.code == 0


async def test_a_run_without_any_answer_fails(tools: Any, environ: dict[str, str]) -> None:
    refusal = tools.Reply([tools.Write(tools.whole(503, b'{"error": {"message": "away"}}'))])
    async with tools.serving(lambda n, body: refusal) as server:
        ended = await baton(environ, server.url, *QUICK)
    assert ended.code == 1
    assert "HTTP 503: away" in ended.out


async def test_a_late_generator_is_exit_code_three(tools: Any, environ: dict[str, str]) -> None:
    async with tools.serving(lambda n, body: tools.answer([0.0])) as server:
        ended = await baton(environ, server.url, *QUICK, "--max-lag-ms", "0.000001")
    assert ended.code == 3
    assert "INVALID: the load generator was the limit" in ended.out


async def test_ctrl_c_writes_the_report_of_what_was_done(
    tools: Any, environ: dict[str, str], tmp_path: Path
) -> None:
    enough = asyncio.Event()

    def script(number: int, body: Any) -> Any:
        if number == 20:
            enough.set()
        return tools.answer([0.0])

    file = tmp_path / "r.json"
    async with tools.serving(script) as server:
        process = await asyncio.create_subprocess_exec(
            *BATON, server.url, "--rate", "40", "--duration", "1h", "--json", str(file),
            "--warmup", "0", env=environ, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        await enough.wait()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    assert b"stopped early" in out
    assert json.loads(file.read_text())["completed"] >= 15


async def test_a_broken_trace_is_named_before_any_load(
    tools: Any, environ: dict[str, str], tmp_path: Path
) -> None:
    good = {"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [0]}
    trace = tmp_path / "t.jsonl"
    trace.write_text(f"{json.dumps(good)}\n{json.dumps({**good, 'input_length': -5})}\n")
    async with tools.serving(lambda n, body: tools.answer([0.0])) as server:
        ended = await baton(environ, server.url, "--trace", str(trace))
        assert server.seen == []
    assert ended.code == 2
    assert ended.err.splitlines() == [
        f"baton loadtest: {trace}, line 2: lengths must be at least 1: -5 in, 1 out"
    ]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "no cluster runs on this host"),
        (("http://127.0.0.1:1",), "no server answers at http://127.0.0.1:1"),
        (("ftp://x",), "not a URL"),
        (("http://127.0.0.1:1", "--rate", "fast"), "not a rate"),
        (("http://127.0.0.1:1", "--slo", "ttft"), "in the SLO"),
        (("http://127.0.0.1:1", "--kill", "prefill"), "not a fault"),
        (("http://127.0.0.1:1", "--style", "x"), "none of ids, text, chat"),
        (("http://127.0.0.1:1", "--extra", "[]"), "not a JSON object"),
        (("http://127.0.0.1:1", "--token-range", "9"), "not a range"),
        (("http://127.0.0.1:1", "--processes", "0"), "at least one"),
        (("compare", "/nonexistent", "/nonexistent"), "cannot read /nonexistent"),
        (("sweep", "http://127.0.0.1:1", "--grid", "1:1"), "starts its own clusters"),
        (("sweep", "http://127.0.0.1:1", "--kill", "prefill@1s"), "faults are for single runs"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_two(
    words: tuple[str, ...],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BATON_STATE_DIR", str(tmp_path / "state"))
    with pytest.raises(SystemExit) as caught:
        main(["loadtest", *words])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("baton loadtest: ")
    assert error in line


async def test_results_are_compared(tools: Any, environ: dict[str, str], tmp_path: Path) -> None:
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    async with tools.serving(lambda n, body: tools.answer([0.01 if n < 30 else 0.2])) as server:
        await baton(environ, server.url, *QUICK, "--json", a)
        await baton(environ, server.url, *QUICK, "--json", b)
    report = tmp_path / "c.html"
    ended = await baton(environ, "compare", a, b, "--html", str(report))
    assert ended.code == 0
    (row,) = [line for line in ended.out.splitlines() if "TTFT p50" in line]
    assert row.rstrip().endswith("worse")
    assert "B against A" in report.read_text()


async def test_a_sweep_finds_where_a_server_breaks(
    tools: Any, environ: dict[str, str], tmp_path: Path
) -> None:
    """The server refuses what comes less than 20 ms after the request before it."""
    last = [0.0]

    def script(number: int, body: Any) -> Any:
        now = tools.clock.now()
        is_soon, last[0] = now - last[0] < 0.02, now
        if is_soon:
            return tools.Reply([tools.Write(tools.whole(429, b"{}"))])
        return tools.answer([0.0])

    file = tmp_path / "s.json"
    async with tools.serving(script) as server:
        ended = await baton(
            environ, "sweep", server.url, "--rate", "20", "--duration", "500ms",
            "--max-rate", "200", "--arrivals", "constant", "--slo", "ttft:5000",
            "--max-lag-ms", "5000",
            "--json", str(file), "--html", str(tmp_path / "s.html"), "--input-tokens", "4",
        )  # fmt: skip
    assert ended.code == 0, ended.out + ended.err
    content = json.loads(file.read_text())
    assert 5 <= content["sweep"][0]["best_rate"] <= 70
    assert len(content["runs"]) >= 4
    assert {run["baton_loadtest"]["facts"]["seed"] for run in content["runs"]} == set(
        range(len(content["runs"]))
    )


@pytest.mark.slow  # it starts two clusters
async def test_a_sweep_over_a_grid_of_splits_starts_a_cluster_for_each(
    environ: dict[str, str], tmp_path: Path
) -> None:
    file, page = tmp_path / "grid.json", tmp_path / "grid.html"
    ended = await baton(
        environ, "sweep", "--grid", "1:1,0:1", "--up", "--profile llama-3.1-8b@h200",
        "--rate", "8", "--max-rate", "8", "--duration", "2s", "--arrivals", "constant",
        "--input-tokens", "64", "--output-tokens", "4", "--slo", "ttft:30000",
        "--max-lag-ms", "30000", "--json", str(file), "--html", str(page),
    )  # fmt: skip
    assert ended.code == 0, ended.out + ended.err
    content = json.loads(file.read_text())
    assert [one["split"] for one in content["sweep"]] == ["1:1", "0:1"]
    assert all(one["best_rate"] == pytest.approx(8, rel=0.1) for one in content["sweep"])
    stages = [run["baton_loadtest"]["stages"] for run in content["runs"]]
    kinds = [set(one["requests_by_kind"]) for one in stages]
    assert kinds == [{"remote"}, {"degraded"}]
    assert all(one["prefill"]["count"] > 0 and one["decode"]["p50"] > 0 for one in stages)
    assert stages[0]["transfer"]["count"] > 0 and stages[1]["transfer"]["count"] == 0
    addresses = [line.split()[2] for line in ended.out.splitlines() if " at http" in line]
    assert len(set(addresses)) == 2 and page.read_text().startswith("<!doctype html>")
    for address in addresses:
        port = int(address.rpartition(":")[2])
        with pytest.raises(OSError, match="refused"):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_grid_whose_cluster_does_not_start_says_why(environ: dict[str, str]) -> None:
    words = ("sweep", "--grid", "1:1", "--up", "--model /nonexistent")
    ended = await baton(environ, *words, "--rate", "8", "--duration", "1s")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "no cluster of 1:1 could be started" in line and "/nonexistent" in line


async def test_help_names_every_flag(environ: dict[str, str]) -> None:
    ended = await baton({**environ, "COLUMNS": "200"}, "run", "--help")
    assert ended.code == 0
    for name in LoadFlags.__slots__:
        assert f"--{name.replace('_', '-')}" in ended.out


def test_every_flag_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "loadtest.md").read_text()
    missing = [name for name in LoadFlags.__slots__ if f"--{name.replace('_', '-')}" not in text]
    assert missing == []


def test_a_grid_is_read() -> None:
    assert parse_grid("1:1, 2:0", "--threads 1").splits == ((1, 1), (2, 0))
    assert parse_grid("", "--threads 1 --model 'a b'").up_flags[-1] == "a b"
    for text in ("1", "0:0", "a:1", "1:-1"):
        with pytest.raises(LoadtestError, match="not a split"):
            parse_grid(text, "")


class FakeCluster(LocalFaults):
    """LocalFaults over a status that the test sets."""

    def __init__(self, status: ClusterStatus) -> None:
        super().__init__(StateDir(Path("/nonexistent")))
        self.status = status

    async def _status(self) -> ClusterStatus:
        return self.status


def status_of(pid: int, beat_age_s: float | None) -> ClusterStatus:
    """A prefill worker of this pid; it has no beat where beat_age_s is None."""
    process = ProcessStatus("prefill-0", "prefill", pid, "running", 0, 9.0)
    gateway = ProcessStatus("gateway-0", "gateway", 1, "running", 0, 9.0)
    if beat_age_s is None:
        return ClusterStatus(1, (), (gateway, process))
    fingerprint = Fingerprint("demo", "r", "float32", 16, "l")
    address = FabricAddress("127.0.0.1", 1)
    info = WorkerInfo("prefill-0", 1, Role.PREFILL, "127.0.0.1:1", address, fingerprint, 4096, 64)
    worker = WorkerStatus(info, WorkerReport(Role.PREFILL), beat_age_s)
    return ClusterStatus(1, (worker,), (gateway, process))


@pytest.fixture
async def victim() -> Any:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()",
                                                   stdin=asyncio.subprocess.PIPE)  # fmt: skip
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_a_killed_worker_is_back_when_another_process_beats(victim: Any) -> None:
    cluster = FakeCluster(status_of(victim.pid, 0.5))
    name = await cluster.inject(Fault("kill", "prefill", 0.0))
    assert name == "prefill-0"
    assert await victim.wait() == -signal.SIGKILL
    assert not await cluster.is_back(name)  # the registry still shows the dead one
    cluster.status = status_of(victim.pid + 1, None)
    assert not await cluster.is_back(name)  # started, not yet registered
    cluster.status = status_of(victim.pid + 1, 9.0)
    assert not await cluster.is_back(name)
    cluster.status = status_of(victim.pid + 1, 0.2)
    assert await cluster.is_back(name)


async def test_a_frozen_worker_is_woken_even_when_the_run_ends_first(victim: Any) -> None:
    cluster = FakeCluster(status_of(victim.pid, 0.5))
    await cluster.inject(Fault("freeze", "prefill-0", 0.0, 600.0))
    while process_state(victim.pid) != "T":
        await asyncio.sleep(0)
    assert not await cluster.is_back("prefill-0")
    await cluster.close()
    assert process_state(victim.pid) != "T"


async def test_an_unknown_victim_is_refused_with_what_there_is(victim: Any) -> None:
    cluster = FakeCluster(status_of(victim.pid, 0.5))
    with pytest.raises(LoadtestError, match="'planner'; there are gateway-0, prefill-0"):
        await cluster.inject(Fault("kill", "planner", 0.0))


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
