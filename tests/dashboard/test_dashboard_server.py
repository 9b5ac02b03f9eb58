"""The dashboard's server by itself: files, what it refuses, what it makes of gateways' figures."""

import asyncio
import contextlib
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.api.shapes import SERIES
from control_plane.config import ControlConfig
from control_plane.server import ControlServer
from dashboard.config import DashboardConfig
from dashboard.exposition import GOODPUT, REQUESTS, Figures, read_figures
from dashboard.exposures import Transfer, exposures
from dashboard.history import EXPRESSIONS, with_own_samples
from dashboard.listeners import Listeners
from dashboard.server import DashboardServer
from dashboard.shapes import HistoryAnswer, TrafficView
from dashboard.traffic import TrafficMeter
from runtime.clock import SystemClock
from runtime.lifecycle import free_port
from runtime.metrics import CONTROL_METRICS, GATEWAY_METRICS, WORKER_METRICS

STATIC = Path(__file__).parents[2] / "dashboard" / "static"


@contextlib.asynccontextmanager
async def page_of(**settings: object) -> AsyncIterator[httpx.AsyncClient]:
    given_settings = {"port": 0, "gateway_urls": "", **settings}
    server = DashboardServer(DashboardConfig(**given_settings), SystemClock())  # type: ignore[arg-type]
    await server.start()
    url = f"http://127.0.0.1:{server.port}"
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
            yield client
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def control_plane(**settings: object) -> AsyncIterator[str]:
    given_settings = {"port": 0, "settle_s": 0.0, "operator_token": "secret", **settings}
    server = ControlServer(ControlConfig(**given_settings), SystemClock())  # type: ignore[arg-type]
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.http_port}"
    finally:
        await server.stop()


async def test_files_come_with_a_strict_policy_and_only_once() -> None:
    async with page_of(operator_url="http://127.0.0.1:1") as http:
        page = await http.get("/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        again = await http.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert again.status_code == 304
        assert not again.content
        plain = await http.get("/js/app.js", headers={"Accept-Encoding": "identity"})
        packed = await http.get("/js/app.js", headers={"Accept-Encoding": "gzip"})
        assert plain.content == packed.content == (STATIC / "js/app.js").read_bytes()
        assert packed.headers["content-encoding"] == "gzip"
        assert (await http.get("/js/../config.py")).status_code == 404


def test_no_file_names_another_host() -> None:
    for path in STATIC.rglob("*"):
        if path.suffix in (".html", ".css", ".js") and "vendor" not in path.parts:
            found = re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}", path.read_text())
            assert set(found) <= {"http://www.w3.org"}, path


def test_every_module_is_loaded_ahead() -> None:
    page = (STATIC / "index.html").read_text()
    for path in (STATIC / "js").glob("*.js"):
        assert f'"js/{path.name}"' in page, path


async def test_a_silent_control_plane_is_said() -> None:
    async with page_of(operator_url="http://127.0.0.1:1") as http:
        for path in ("status", "events", "history"):
            answer = await http.get(f"/api/v1/{path}")
            assert answer.status_code == 502
            assert "127.0.0.1:1" in answer.json()["error"]["message"]


async def test_what_is_too_large_or_out_of_bounds_is_refused_with_the_limit() -> None:
    async with control_plane() as operator_url, page_of(operator_url=operator_url) as http:
        large = await http.post("/api/v1/what-if", content=b"x" * 70_000)
        assert large.status_code == 413
        minutes = await http.get("/api/v1/history?minutes=0")
        assert (minutes.status_code, "1 .. 360" in minutes.text) == (400, True)
        unknown = await http.get("/api/requests/nobody")
        assert unknown.status_code == 404
        odd = await http.get("/api/requests/a%2Fb")
        assert odd.status_code == 400


async def test_who_may_not_read_the_control_plane_reads_nothing_here() -> None:
    async with (
        control_plane(protect_reads=True) as operator_url,
        page_of(operator_url=operator_url) as http,
    ):
        for path in ("v1/status", "v1/events", "v1/history", "requests/one"):
            assert (await http.get(f"/api/{path}")).status_code == 401
        allowed = {"Authorization": "Bearer secret"}
        assert (await http.get("/api/v1/status", headers=allowed)).status_code == 200
        assert (await http.get("/api/requests/one", headers=allowed)).status_code == 404


async def test_the_audit_log_names_who_acted_and_from_where() -> None:
    async with control_plane() as operator_url, page_of(operator_url=operator_url) as http:
        headers = {"Authorization": "Bearer secret", "X-Operator": "Ada"}
        await http.post("/api/v1/actions/pause", json={}, headers=headers)
        audit = (await http.get("/api/v1/audit")).json()["entries"]
        assert audit[0]["who"].startswith("Ada (dashboard from 127.0.0.1)")


async def test_events_of_the_control_plane_and_of_this_server_come_in_one_stream() -> None:
    async with control_plane() as operator_url, page_of(operator_url=operator_url) as http:
        names = set()
        async with asyncio.timeout(60), http.stream("GET", "/api/v1/events") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    names.add(line[7:])
                if names >= {"status", "traffic"}:
                    break


def test_a_listener_that_does_not_read_is_ended() -> None:
    listeners = Listeners()
    queue = listeners.join()
    for at_s in range(200):
        listeners.publish("traffic", TrafficView(at_s=at_s))
    frames = [queue.get_nowait() for _ in range(queue.qsize())]
    assert frames[-1] is None
    assert len(frames) < 100
    listeners.check_integrity()


def test_figures_are_read_from_a_gateways_text() -> None:
    found = read_figures(
        "# TYPE baton_goodput_total counter\n"
        'baton_goodput_total{met="both"} 3.0\nbaton_goodput_total{met="ttft"} 2.0\n'
        'baton_predictor_error_ratio{worker="decode-0"} 0.04\nbaton_other 1\n'
        "baton_requests_accepted_total 9.0\n"
    )
    assert found.sums == {f"{GOODPUT}|both": 3.0, f"{GOODPUT}|ttft": 2.0, REQUESTS: 9.0}
    assert found.step_errors == {"decode-0": 0.04}


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12), st.data())
def test_rates_are_never_negative_also_over_a_restart(
    grown: list[int], data: st.DataObject
) -> None:
    meter, total = TrafficMeter(), 0
    for tick, count in enumerate(grown):
        total = 0 if data.draw(st.booleans()) else total + count
        sums = {REQUESTS: float(total), f"{GOODPUT}|both": float(total)}
        view = meter.view(2.0 * tick, 1e9, {"a": Figures(sums)})
        assert view.requests_s is None or view.requests_s >= 0
        assert view.ttft_attained in (None, 1.0)


def test_rates_are_what_grew_over_the_time_between() -> None:
    meter = TrafficMeter()
    for tick in range(5):
        sums = {REQUESTS: 10.0 * tick, f"{GOODPUT}|both": 6.0 * tick, f"{GOODPUT}|tpot": 2.0 * tick}
        view = meter.view(2.0 * tick, 1e9, {"a": Figures(sums)})
    assert (view.requests_s, view.goodput_s) == (5.0, 3.0)
    assert (view.ttft_attained, view.tpot_attained) == (0.75, 1.0)


def test_exposed_time_is_told_by_pair() -> None:
    transfers = [
        Transfer("a", "prefill-0", "decode-0", 0.02, 0.001 * i, "lease ended" if i == 9 else "")
        for i in range(10)
    ]
    [found] = exposures([*transfers, Transfer("b", "", "decode-0")])
    assert (found.source, found.target, found.count) == ("prefill-0", "decode-0", 10)
    assert (found.exposed_p50_ms, found.exposed_p90_ms, found.failures) == (
        pytest.approx(5.0),
        pytest.approx(9.0),
        1,
    )


def test_gaps_in_the_history_are_filled_from_near_samples_alone() -> None:
    history = HistoryAnswer(
        source="x", step_s=5, at_s=[100, 105, 200], series={"goodput_s": [None, 1.0, None]}
    )
    samples = [TrafficView(at_s=101, goodput_s=7.0), TrafficView(at_s=106, goodput_s=8.0)]
    filled = with_own_samples(history, samples)
    assert filled.series["goodput_s"] == [7.0, 1.0, None]
    assert filled.series["requests_s"] == [None, None, None]


def test_the_expressions_are_the_operator_apis_series_over_declared_metrics() -> None:
    assert EXPRESSIONS.keys() == SERIES.keys()
    specs = [*GATEWAY_METRICS, *WORKER_METRICS, *CONTROL_METRICS]
    declared = {spec.name for spec in specs}
    for promql in EXPRESSIONS.values():
        assert set(re.findall(r"baton_\w+", promql)) <= declared


async def test_history_comes_from_prometheus_where_there_is_one(tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (apt-get install prometheus)")
    async with control_plane(metrics_port=0) as operator_url:
        port, process = start_prometheus(tmp_path)
        try:
            await until_ready(port)
            url = f"http://127.0.0.1:{port}"
            async with page_of(operator_url=operator_url, prometheus_url=url) as http:
                answer = await http.get("/api/v1/history?minutes=15")
            found = msgspec.json.decode(answer.content, type=HistoryAnswer)
            assert found.source == "Prometheus"
            assert len(found.at_s) == 180
            assert all(len(column) == 180 for column in found.series.values())
        finally:
            process.terminate()
            process.wait(20)


def start_prometheus(folder: Path) -> tuple[int, subprocess.Popen[bytes]]:
    port = free_port()
    (folder / "prometheus.yaml").write_text("global: {scrape_interval: 5s}\n")
    words = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}"]
    words += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    return port, subprocess.Popen(words, stderr=subprocess.DEVNULL)


async def until_ready(port: int) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as http:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await http.get(f"http://127.0.0.1:{port}/-/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.05)
