"""A real Prometheus answers every panel: over a live cluster, and over one where all goes wrong."""

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from dashboard.config import DashboardConfig
from dashboard.history import EXPRESSIONS
from dashboard.server import DashboardServer
from runtime.clock import SystemClock
from runtime.lifecycle import free_port
from runtime.metrics import (
    CONTROL_METRICS,
    GATEWAY_METRICS,
    WORKER_METRICS,
    Metrics,
    MetricSpec,
)
from runtime.metrics_server import MetricsServer

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed"
)

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
BOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
DEADLINE_S = 90.0


def queries(*, also_of_events: bool) -> dict[str, str]:
    """Panel and letter -> what Grafana asks with all of each variable chosen."""
    found = {}
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] == "row" or (
                "Empty without" in panel["description"] and not also_of_events
            ):
                continue
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "10s")
                name = f"{path.stem}: {panel['title']} {target['refId']}"
                found[name] = re.sub(r"\$[a-z]+", ".*", expression)
    return found


class Prometheus:
    """A server of its own that scrapes the targets every half second."""

    def __init__(self, directory: Path, targets: Sequence[str]) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        shutil.copy(RULES / "recording.yaml", directory)
        rules = (RULES / "alerts.yaml").read_text()
        (directory / "alerts.yaml").write_text(rules)
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["recording.yaml", "alerts.yaml"],
            "scrape_configs": [{"job_name": "baton", "static_configs": [{"targets": [*targets]}]}],
        }
        (directory / "prometheus.json").write_text(json.dumps(config))
        command = ["prometheus", f"--config.file={directory / 'prometheus.json'}"]
        command += [f"--storage.tsdb.path={directory / 'data'}", "--log.level=error"]
        command += [f"--web.listen-address=127.0.0.1:{self._port}"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._client = httpx.Client(base_url=self.url, timeout=60)

    def ask(self, expression: str) -> list[float]:
        """The values of an instant query; none while the server is starting."""
        try:
            reply = self._client.get("/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            return []
        if reply.status_code == 503:
            return []
        assert reply.status_code == 200, f"{expression}: {reply.text}"
        data: dict[str, Any] = reply.json()["data"]
        return [float(one["value"][1]) for one in data["result"]]

    def stop(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(20)

    def without_data(self, wanted: dict[str, str], meanwhile: Callable[[], None]) -> list[str]:
        """Those that have had no number until the deadline; each is asked until it has one."""
        deadline_s = time.monotonic() + DEADLINE_S
        missing = dict(wanted)
        while missing and time.monotonic() < deadline_s:
            meanwhile()
            for name, expression in list(missing.items()):
                if any(not math.isnan(value) for value in self.ask(expression)):
                    del missing[name]
        return sorted(missing)


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[[Sequence[str]], Prometheus]]:
    started: list[Prometheus] = []

    def start(targets: Sequence[str]) -> Prometheus:
        started.append(Prometheus(tmp_path, targets))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def ports_in_a_row(number: int) -> int:
    """The first of so many ports that nobody listens on."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            for port in range(first, first + number):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


# --- everything that can happen ------------------------------------------------------------------

VALUES = {
    "model": ["llama"],
    "worker": ["decode-0"],
    "role": ["prefill", "decode"],
    "met": ["both", "ttft", "tpot", "none"],
    "objective": ["ttft", "tpot"],
    "kind": ["measured", "predicted", "prompt", "cached", "output", "remote"],
    "stage": ["prefill", "decode", "ttft"],
    "state": ["free", "used"],
    "severity": ["page"],
    "action": ["flip", "hold"],
}


class Eventful:
    """A process whose every metric exists and grows, with the labels that are declared."""

    def __init__(self, specs: tuple[MetricSpec, ...]) -> None:
        self._specs, self._metrics = specs, Metrics(specs)
        self.server = MetricsServer("127.0.0.1", 0, self._scraped)
        self.server.start()

    def _scraped(self) -> bytes:
        for spec in self._specs:
            for labels in _combinations(spec.labels):
                if spec.kind == "counter":
                    self._metrics.counter(spec.name, **labels).inc()
                elif spec.kind == "gauge":
                    self._metrics.gauge(spec.name, **labels).set(1)
                else:
                    self._metrics.histogram(spec.name, **labels).observe(0.3)
        if any(spec.name == "baton_worker_info" for spec in self._specs):
            other = {"worker": "decode-0", "model": "llama", "role": "prefill"}
            self._metrics.gauge("baton_worker_info", **other).set(0)
        return self._metrics.exposition()


def _combinations(labels: Sequence[str]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [{}]
    for label in labels:
        found = [{**one, label: value} for one in found for value in VALUES.get(label, ["x"])]
    return found


def test_every_panel_has_data_where_all_that_can_happen_happens(
    start_prometheus: Callable[[Sequence[str]], Prometheus],
) -> None:
    processes = [Eventful(specs) for specs in (GATEWAY_METRICS, WORKER_METRICS, CONTROL_METRICS)]
    try:
        server = start_prometheus([f"127.0.0.1:{one.server.port}" for one in processes])
        wanted = queries(also_of_events=True)
        firing = [name for name in wanted if "Firing alerts" in name]
        for name in firing:  # their `for` is minutes; promtool tests that they fire
            del wanted[name]
        assert not server.without_data(wanted, lambda: time.sleep(0.2))
    finally:
        for one in processes:
            one.server.stop()


# --- a live cluster ------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """`baton up` on the bundled model; its URL, and what Prometheus is to scrape."""
    port = ports_in_a_row(4)
    metrics_port = port + 1
    command = [sys.executable, "-m", "baton", "up", "--port", str(port), "--control-port", "0"]
    command += ["--metrics-port", str(metrics_port), "--grpc-port", "-1", "--dashboard-port", "-1"]
    environment = {**os.environ, "BATON_STATE_DIR": str(tmp_path / "state")}
    log_path = tmp_path / "up.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    deadline_s = time.monotonic() + DEADLINE_S
    while not _serves(url):
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline_s, log_path.read_text()
        time.sleep(0.1)
    yield url, [f"127.0.0.1:{one}" for one in range(port, port + 4)]
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def operator_url(state: Path) -> str:
    """Of the control plane that `baton up` started with this state directory."""
    return str(json.loads((state / "cluster.json").read_text())["operator_url"])


def _serves(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_every_panel_of_normal_running_has_data_over_a_live_cluster(
    cluster: tuple[str, list[str]], start_prometheus: Callable[[Sequence[str]], Prometheus]
) -> None:
    url, targets = cluster
    server = start_prometheus(targets)
    with four_at_a_time(url) as load:
        assert not server.without_data(queries(also_of_events=False), load)
    assert not server.ask('ALERTS{alertstate="firing",severity="page"}')


@contextlib.contextmanager
def four_at_a_time(url: str) -> Iterator[Callable[[], None]]:
    """A function that asks the cluster four questions and waits for the answers."""
    numbers = iter(range(1_000_000))

    def ask(number: int) -> None:
        text = f"Question {number}: " + "what happens when a decode worker is killed? " * 3
        body = {"model": "baton-demo", "prompt": text, "max_tokens": 12}
        assert httpx.post(f"{url}/v1/completions", json=body, timeout=60).status_code == 200

    with ThreadPoolExecutor(4) as pool:
        yield lambda: list(pool.map(ask, [next(numbers) for _ in range(4)])).clear()


@pytest.mark.slow
async def test_the_page_has_every_column_of_its_history_from_prometheus_over_a_live_cluster(
    cluster: tuple[str, list[str]],
    start_prometheus: Callable[[Sequence[str]], Prometheus],
    tmp_path: Path,
) -> None:
    url, targets = cluster
    server = start_prometheus(targets)
    config = DashboardConfig(
        port=0,
        operator_url=operator_url(tmp_path / "state"),
        gateway_urls="",  # what the page saw itself fills no gap here
        prometheus_url=server.url,
    )
    page = DashboardServer(config, SystemClock())
    await page.start()
    try:
        empty = set(EXPRESSIONS)
        deadline_s = time.monotonic() + DEADLINE_S
        with four_at_a_time(url) as load:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{page.port}", timeout=60
            ) as http:
                while empty:
                    assert time.monotonic() < deadline_s, sorted(empty)
                    await asyncio.to_thread(load)
                    history = (await http.get("/api/v1/history?minutes=2", timeout=20)).json()
                    assert history["source"] == "Prometheus"
                    series = history["series"].items()
                    empty = {name for name, column in series if not any_number(column)}
    finally:
        await page.stop()


def any_number(column: Sequence[float | None]) -> bool:
    return any(value is not None for value in column)
