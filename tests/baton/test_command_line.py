"""The commands as a shell runs them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from baton.__main__ import SUMMARIES
from baton.bench.row import Row
from baton.commands import bench
from baton.commands.flags import HELP, SECRET_FIELDS
from baton.detached import start_detached
from baton.state_dir import ClusterState, StateDir
from baton.up_config import UpConfig
from control_plane.config import ControlConfig
from dashboard.config import DashboardConfig
from gateway.config import GatewayConfig
from runtime.lifecycle import free_port
from worker.config import WorkerConfig

BATON = (sys.executable, "-m", "baton")
FAKE_BATON = (sys.executable, str(Path(__file__).parent / "fake_baton.py"))
TIMEOUT_S = 30.0


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    """Where every command of the test finds its cluster; nothing runs there afterwards."""
    for name in [name for name in os.environ if name.startswith("BATON_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BATON_STATE_DIR", str(tmp_path / "state"))
    return StateDir(tmp_path / "state")


def run(*words: str, program: tuple[str, ...] = BATON) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *words], capture_output=True, text=True, timeout=TIMEOUT_S)


@contextlib.contextmanager
def cluster_up(
    state_dir: StateDir, model: Path, *flags: str
) -> Iterator[tuple[subprocess.Popen[str], ClusterState]]:
    """`baton up` over processes without a model, once it serves."""
    words = ["up", "--model", str(model), "--port", str(free_port()), "--control-port", "0"]
    with subprocess.Popen(
        [*FAKE_BATON, *words, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process, wait_for_state(state_dir, process)
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=TIMEOUT_S)


def wait_for_state(state_dir: StateDir, process: subprocess.Popen[str]) -> ClusterState:
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, process.communicate()[0]
        state = state_dir.running()
        if state is not None and state.is_ready:
            return state
        time.sleep(0.02)
    raise AssertionError("the cluster does not serve")


def test_help_names_every_command_without_loading_torch():
    script = (
        "import sys\nfrom baton.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'worker' not in sys.modules"
    )
    done = run("-c", script, program=(sys.executable,))
    assert done.returncode == 0, done.stderr
    for name in ("up", "down", "status", "doctor", "gateway", "prefill", "decode", "control"):
        assert name in done.stdout


@pytest.mark.parametrize("command", ["status", "up", "down", "control"])
def test_commands_without_a_model_in_them_start_without_torch(command: str):
    script = (
        f"import sys, baton.commands.{command}\n"
        "assert 'torch' not in sys.modules and 'engine' not in sys.modules"
    )
    done = run("-c", script, program=(sys.executable,))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", sorted(SUMMARIES))
def test_every_command_has_a_help_page(
    command: str, run_in_process: Callable[..., tuple[int, str]]
):
    code, output = run_in_process(command, "--help")
    assert code == 0
    assert SUMMARIES[command].split()[0] in output


def test_every_setting_has_a_help_text():
    configs = (UpConfig, ControlConfig, DashboardConfig, GatewayConfig, WorkerConfig)
    names = {field.name for config in configs for field in fields(config)}
    assert names - SECRET_FIELDS - {"role"} <= set(HELP) <= names


@pytest.mark.parametrize("command", ["status", "down"])
def test_without_a_cluster_there_is_nothing_to_show_or_stop(state_dir: StateDir, command: str):
    done = run(command)
    assert done.returncode == 1
    assert "No cluster runs here" in done.stderr


def test_a_control_plane_that_does_not_answer_is_named(state_dir: StateDir):
    address = f"127.0.0.1:{free_port()}"
    done = run("status", "--control-address", address)
    assert done.returncode == 1
    assert f"{address} does not answer" in done.stderr


def test_a_busy_port_ends_up_with_code_2_before_anything_starts(
    state_dir: StateDir, whole_model: Path
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("up", "--model", str(whole_model), "--port", port, "--control-port", "0")
    assert done.returncode == 2
    assert f"127.0.0.1:{port} is not free" in done.stderr


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_model_file_ends_up_with_code_2_and_its_name(
    state_dir: StateDir, model_copy: Path, name: str
):
    (model_copy / name).unlink()
    done = run("up", "--model", str(model_copy), "--port", "0", "--control-port", "0")
    assert done.returncode == 2
    assert f"{model_copy / name}: file is missing" in done.stderr


@pytest.mark.parametrize("words", [("--prefill", "x"), ("--prefil", "1"), ("--threads", "-1")])
def test_a_flag_that_cannot_be_used_ends_with_code_2(state_dir: StateDir, words: tuple[str, str]):
    done = run("up", *words)
    assert done.returncode == 2
    assert words[0] in done.stderr


def test_a_config_file_with_an_unknown_setting_is_refused(state_dir: StateDir, tmp_path: Path):
    file = tmp_path / "baton.toml"
    file.write_text("[up]\nprefill_workers = 2\n")
    done = run("up", "--config", str(file))
    assert done.returncode == 2
    assert "prefill_workers" in done.stderr


def test_up_prints_where_it_serves_and_ends_cleanly_on_sigterm(
    state_dir: StateDir, whole_model: Path
):
    with cluster_up(state_dir, whole_model, "--served-model-name", "tiny") as (process, state):
        pids = [entry.pid for entry in psutil.Process(process.pid).children()]
        assert len(pids) == 3
        process.terminate()
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert f"{state.http_url}/v1/chat/completions" in output
    assert '"model": "tiny"' in output
    assert state_dir.running() is None
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_ctrl_c_on_the_terminal_ends_it_cleanly(state_dir: StateDir, whole_model: Path):
    with cluster_up(state_dir, whole_model) as (process, _):
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert "Traceback" not in output


def test_a_sigkill_of_up_leaves_no_process_and_no_cluster(state_dir: StateDir, whole_model: Path):
    with cluster_up(state_dir, whole_model) as (process, _):
        children = psutil.Process(process.pid).children()
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=TIMEOUT_S)
    assert len(children) == 3 and not alive
    assert run("status").returncode == 1
    with cluster_up(state_dir, whole_model):
        assert run("status").returncode == 0


def test_a_child_that_cannot_start_ends_up_with_code_1_and_its_message(
    state_dir: StateDir, whole_model: Path
):
    words = ("up", "--model", str(whole_model), "--port", "0", "--control-port", "0")
    done = run(*words, "--served-model-name", "cut-short", program=FAKE_BATON)
    assert done.returncode == 1
    assert "model.safetensors: has 10 bytes where its header says 20" in done.stderr
    assert state_dir.running() is None


def test_a_config_file_sets_what_flags_and_environment_leave_open(
    state_dir: StateDir, whole_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "baton.toml"
    file.write_text("[up]\nprefill = 2\ndecode = 3\nserved_model_name = 'from-file'\n")
    monkeypatch.setenv("BATON_DECODE", "2")
    with cluster_up(state_dir, whole_model, "--config", str(file), "--prefill", "1"):
        status = json.loads(run("status", "--json").stdout)
    assert [worker["info"]["worker_id"] for worker in status["workers"]] == [
        "decode-0",
        "decode-1",
        "prefill-0",
    ]
    assert status["workers"][0]["info"]["fingerprint"]["model"] == "from-file"


def test_status_shows_workers_and_processes(state_dir: StateDir, whole_model: Path):
    with cluster_up(state_dir, whole_model) as (_, state):
        table = run("status").stdout
        status = json.loads(run("status", "--json").stdout)
        refused = run("status", "--control-address", state.control_address)
    for text in ("prefill-0", "decode-0", "gateway", "running", "25%", f"API {state.http_url}/v1"):
        assert text in table
    assert {process["state"] for process in status["processes"]} == {"running"}
    assert refused.returncode == 1
    assert "cluster token" in refused.stderr


def test_verbose_passes_the_output_of_all_processes_through(state_dir: StateDir, whole_model: Path):
    with cluster_up(state_dir, whole_model, "--verbose") as (process, _):
        process.terminate()
        output, _ = process.communicate(timeout=TIMEOUT_S)
    for kind in ("gateway", "prefill", "decode"):
        assert f"{kind} starts" in output and f"{kind} ends" in output
    assert "worker registered" in output


def test_a_second_cluster_in_the_same_folder_is_refused(state_dir: StateDir, whole_model: Path):
    with cluster_up(state_dir, whole_model) as (_, state):
        done = run("up", "--model", str(whole_model), "--port", "0", "--control-port", "0")
    assert done.returncode == 2
    assert state.http_url in done.stderr


def test_a_detached_cluster_serves_until_down(
    state_dir: StateDir, whole_model: Path, capsys: pytest.CaptureFixture[str]
):
    flags = {"model": whole_model, "port": free_port(), "control_port": 0}
    assert start_detached(state_dir, flags, FAKE_BATON) == 0
    state = state_dir.running()
    assert state is not None and state.is_ready
    said = capsys.readouterr().out
    assert f"{state.http_url}/v1" in said
    assert "down` stops it." in said and "Ctrl-C" not in said
    family = [psutil.Process(state.pid), *psutil.Process(state.pid).children()]
    assert len(family) == 4
    assert run("status").returncode == 0
    done = run("down")
    assert done.returncode == 0, done.stderr
    os.waitpid(state.pid, 0)  # it is this test's child and a zombie until then
    assert not [process for process in family if process.is_running()]
    assert run("down").returncode == 1


def test_a_detached_cluster_that_cannot_start_gives_its_exit_code_and_message(
    state_dir: StateDir, model_copy: Path, capsys: pytest.CaptureFixture[str]
):
    (model_copy / "config.json").unlink()
    flags = {"model": model_copy, "port": 0, "control_port": 0}
    assert start_detached(state_dir, flags, FAKE_BATON) == 2
    assert "config.json: file is missing" in capsys.readouterr().err


def test_a_control_plane_alone_serves_and_ends_on_sigterm(
    state_dir: StateDir, monkeypatch: pytest.MonkeyPatch
):
    port = str(free_port())
    with subprocess.Popen([*BATON, "control", "--port", port], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert any(b"listening" in line for line in process.stderr)
        done = run("status", "--control-address", f"127.0.0.1:{port}", "--json")
        second = run("control", "--port", port)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
    assert json.loads(done.stdout)["workers"] == []
    assert second.returncode == 2
    assert port in second.stderr


def test_a_bench_writes_its_rows_with_the_host_that_they_belong_to(
    tmp_path: Path, run_in_process: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
):
    rows = [Row("engine.decode.b1", 45.0, "tok/s", "bandwidth", 50.0, 0.9)]
    asked: list[int] = []
    scripted = SimpleNamespace(run=lambda repeats: asked.append(repeats) or rows)
    modules = bench.BENCHES["engine"]
    for module in modules:
        monkeypatch.setitem(sys.modules, module, scripted)
    file = tmp_path / "rows.json"
    code, output = run_in_process("bench", "engine", "--json", str(file), "--repeats", "7")
    content = json.loads(file.read_text())
    assert (code, asked) == (0, [7] * len(modules))
    assert "engine.decode.b1" in output
    assert content["rows"][0]["ratio"] == 0.9
    assert content["host"]["num_cores"] == os.cpu_count()
    assert content["host"]["packages"]["torch"]


def test_an_unknown_bench_ends_with_code_2(run_in_process: Callable[..., tuple[int, str]]):
    assert run_in_process("bench", "nothing")[0] == 2


def test_doctor_fails_with_code_1_when_the_model_cannot_be_served(
    state_dir: StateDir, model_copy: Path, run_in_process: Callable[..., tuple[int, str]]
):
    (model_copy / "tokenizer.json").write_text("{")
    code, output = run_in_process("doctor", "--json", "--model", str(model_copy))
    states = {check["name"]: check["state"] for check in json.loads(output)}
    assert code == 1
    assert states["model"] == "failed"
    assert states["python"] == states["loopback"] == "ok"


def test_doctor_says_of_each_transport_whether_it_is_usable(
    state_dir: StateDir, run_in_process: Callable[..., tuple[int, str]]
):
    _, output = run_in_process("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(output)}
    for name in ("nixl", "tcp", "shm", "ucx"):
        assert checks[f"transport {name}"]["detail"]
    assert checks["transport tcp"]["state"] == "ok"
