"""Baton on a Ray cluster that somebody else has started, with a token, from the command line."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from baton.up_config import DEMO_MODEL
from runtime.lifecycle import free_port

# Ray's own processes take seconds to start and to end, on a busy host minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
RAY_TOKEN = "0123456789abcdef0123456789abcdef0123456789abcdef"
OPERATOR_TOKEN = "operator-secret"
WITH_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": RAY_TOKEN}


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`ray start --head` on a port of its own; every process of it is gone afterwards."""
    port, client_port = free_port(), free_port()
    directory = Path("/tmp") / f"ray-{port}"  # sockets have short paths
    words = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
    words += ["--port", str(port), "--ray-client-server-port", str(client_port)]
    words += ["--num-cpus", "4", "--include-dashboard", "false", "--temp-dir", str(directory)]
    words += ["--disable-usage-stats", "--object-store-memory", str(100 << 20)]
    log = (tmp_path_factory.mktemp("ray") / "log").open("wb")
    head = subprocess.Popen(words, env=environment(**WITH_TOKEN), stdout=log, stderr=log)
    until(lambda: listens(port))
    yield f"127.0.0.1:{port}"
    family = [head, *psutil.Process(head.pid).children(recursive=True)]
    head.send_signal(signal.SIGTERM)
    head.wait(60)
    psutil.wait_procs([p for p in family if isinstance(p, psutil.Process)], timeout=10)
    for process in family:
        if isinstance(process, psutil.Process) and process.is_running():
            process.kill()
    log.close()


def listens(port: int) -> bool:
    return any(
        found.laddr.port == port and found.status == psutil.CONN_LISTEN
        for found in psutil.net_connections("tcp")
    )


def until(wanted: Callable[[], Any], limit_s: float = 240.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not wanted():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


class ControlProcess:
    """`baton control --actuator ray` on given ports."""

    def __init__(self, ray_address: str, port: int, http_port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{http_port}/api/v1"
        words = [sys.executable, "-m", "baton", "control", "--actuator", "ray"]
        words += ["--ray-address", ray_address, "--ray-control-address", f"127.0.0.1:{port}"]
        words += ["--port", str(port), "--http-port", str(http_port), "--settle-s", "0"]
        words += ["--ray-worker", f"--model {DEMO_MODEL} --kv-memory 64MiB --threads 1"]
        environ = environment(**WITH_TOKEN, BATON_OPERATOR_TOKEN=OPERATOR_TOKEN)
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(words, env=environ, stderr=errors, stdout=errors)

    def status(self) -> dict[str, Any]:
        return self._ask("status", None)

    def act(self, action: str, **body: object) -> dict[str, Any]:
        return self._ask(f"actions/{action}", json.dumps(body).encode())

    def wanted(self, role: str) -> int:
        return next(pool["desired"] for pool in self.status()["pools"] if pool["role"] == role)

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return bool(self.status())
        except OSError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(90) == 0, self.log.read_text()[-2000:]

    def __enter__(self) -> "ControlProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/{path}", body)
        request.add_header("Authorization", f"Bearer {OPERATOR_TOKEN}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found


def test_actors_outlive_a_control_plane_and_the_next_one_takes_them_over(
    ray_address: str, tmp_path: Path
):
    with ControlProcess(ray_address, free_port(), free_port(), tmp_path / "first.log") as first:
        until(first.is_up)
        first.act("add", role="decode", count=2)
        assert first.wanted("decode") == 2
        until(lambda: len(first.status()["workers"]) == 2)  # real ones, that have registered
    with ControlProcess(ray_address, free_port(), free_port(), tmp_path / "second.log") as second:
        until(second.is_up)
        assert second.wanted("decode") == 2
        second.act("remove", worker_id="decode-1")
        until(lambda: second.wanted("decode") == 1)
        second.act("add", role="decode", count=1)
        assert second.wanted("decode") == 2
        for name in ("decode-0", "decode-1"):
            second.act("remove", worker_id=name)
        until(lambda: second.wanted("decode") == 0)
        second.stop()


def test_a_whole_cluster_serves_on_the_nodes_of_another_ray_cluster(
    ray_address: str, tmp_path: Path
):
    port, control_port = free_port(), free_port()
    words = [sys.executable, "-m", "baton", "up", "--ray-address", ray_address]
    words += ["--prefill", "1", "--decode", "1", "--ready-timeout-s", "120"]
    words += ["--port", str(port), "--control-port", str(control_port), "--http-port", "-1"]
    words += ["--model", str(DEMO_MODEL), "--kv-memory", "64MiB", "--threads", "1"]
    environ = environment(**WITH_TOKEN, BATON_STATE_DIR=str(tmp_path / "state"))
    with (tmp_path / "log").open("wb") as log:
        up = subprocess.Popen(words, env=environ, stdout=log, stderr=log)
    try:
        until(lambda: answers(up, f"http://127.0.0.1:{port}/readyz"))
        body = json.dumps({"model": "demo_model", "prompt": "Once upon", "max_tokens": 8})
        url = f"http://127.0.0.1:{port}/v1/completions"
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body.encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.loads(answer.read())["usage"]["completion_tokens"] == 8
    finally:
        up.terminate()
        assert up.wait(90) == 0, (tmp_path / "log").read_text()[-2000:]


def answers(process: subprocess.Popen[bytes], url: str) -> bool:
    assert process.poll() is None
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("token", ["", "f" * 48])
def test_without_the_clusters_token_the_control_plane_does_not_start(
    token: str, ray_address: str, tmp_path: Path
):
    words = [sys.executable, "-m", "baton", "control", "--actuator", "ray", "--port", "0"]
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {}
    done = subprocess.run(
        [*words, "--ray-address", ray_address],
        env=environment(**auth, HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode != 0
    assert "token" in done.stderr.lower() or "auth" in done.stderr.lower()
