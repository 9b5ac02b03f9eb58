"""The gateway as a process: refuses to start with a message, serves, drains on SIGTERM."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config import GatewayConfig
from router.output import OutputDelta
from runtime.settings import load
from wire.messages import FinishReason

MAIN = """
import sys
from gateway.config import GatewayConfig
from gateway.process import run
more = dict(zip(sys.argv[5::2], sys.argv[6::2]))
sys.exit(run(GatewayConfig(model=sys.argv[1], port=int(sys.argv[2]), control_address=sys.argv[3],
                           drain_s=5, parent_pid=int(sys.argv[4]), **more)))
"""


@contextmanager
def gateway_process(
    model: Path, port: int, control: str = "127.0.0.1:1", parent_pid: int = 0, *more: str
) -> Iterator[subprocess.Popen[str]]:
    """more: names of further settings, each with its value."""
    told = str(model), str(port), control, str(parent_pid), *more
    arguments = [sys.executable, "-c", MAIN, *told]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def log_line(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """The next log line with this event; fails when the process ends before it."""
    assert process.stderr is not None
    for line in process.stderr:
        record: dict[str, Any] = json.loads(line)
        if record["event"] == event:
            return record
    raise AssertionError(f"the process ended without {event!r}")


def test_it_serves_without_workers_and_exits_with_0_on_sigterm(model_path: Path) -> None:
    with gateway_process(model_path, 0, parent_pid=os.getpid()) as process:
        url = log_line(process, "the gateway listens")["url"]
        with httpx.Client(base_url=url, timeout=60) as client:
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 503
            assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=20)
        assert (process.returncode, stdout) == (0, "")


def test_what_is_no_http_is_refused_and_logged_like_everything_else(model_path: Path) -> None:
    with gateway_process(model_path, 0) as process:
        url = httpx.URL(log_line(process, "the gateway listens")["url"])
        assert url.port is not None
        with socket.create_connection((url.host, url.port)) as connection:
            connection.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        assert log_line(process, "Invalid HTTP request received.")["level"] == "warning"


def test_a_busy_port_is_named_and_nothing_starts(model_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with gateway_process(model_path, port) as process:
            record = log_line(process, "the gateway cannot start")
            assert f"127.0.0.1:{port} is not free" in record["reason"]
            assert process.wait(timeout=20) == 1


def test_a_missing_model_file_is_named_before_the_port_opens(tmp_path: Path) -> None:
    with gateway_process(tmp_path, 0) as process:
        record = log_line(process, "the gateway cannot start")
        assert str(tmp_path / "config.json") in record["reason"]
        assert process.wait(timeout=20) == 1


@pytest.mark.parametrize("setting", ["policy", "shadow_policies", "router_profile"])
def test_a_choice_that_there_is_none_of_is_named(model_path: Path, setting: str) -> None:
    with gateway_process(model_path, 0, "127.0.0.1:1", 0, setting, "clever") as process:
        assert "'clever'" in log_line(process, "the gateway cannot start")["reason"]
        assert process.wait(timeout=20) == 1


def test_clients_certificates_without_one_of_its_own_are_refused(model_path: Path) -> None:
    more = "tls_client_ca", "authority.pem"
    with gateway_process(model_path, 0, "127.0.0.1:1", 0, *more) as process:
        reason = log_line(process, "the gateway cannot start")["reason"]
        assert reason == "tls_client_ca asks for TLS: it needs tls_certificate"
        assert process.wait(timeout=20) == 1


async def test_a_drain_lets_running_streams_end_and_takes_no_new_ones(
    start_gateway: Callable[..., Any],
) -> None:
    gate = asyncio.Event()

    def script(_: Any) -> list[Any]:
        return [OutputDelta((70,)), gate, OutputDelta((71,), FinishReason.LENGTH)]

    async with start_gateway(script) as gateway:
        body = {"model": "tiny", "prompt": "x", "stream": True}
        async with gateway.client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith("data: {")
            gateway.stop.set()
            await refuses_connections(gateway.port)
            assert not gateway.serving.done()
            gate.set()
            assert "data: [DONE]" in [line async for line in lines]
        await gateway.serving


async def test_streams_that_outlast_the_drain_end_with_an_error_event(
    start_gateway: Callable[..., Any],
) -> None:
    forever = asyncio.Event()
    async with start_gateway(lambda _: [OutputDelta((70,)), forever], drain_s=0.2) as gateway:
        body = {"model": "tiny", "prompt": "x", "stream": True}
        async with gateway.client.stream("POST", "/v1/completions", json=body) as response:
            gateway.stop.set()
            lines = [line async for line in response.aiter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "draining"


async def refuses_connections(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        writer.close()
        await writer.wait_closed()


def test_the_configuration_can_be_loaded_from_the_environment() -> None:
    config = load(GatewayConfig, {"model": "m"}, environ={"BATON_MAX_BODY_BYTES": "1024"})
    assert (config.model, config.max_body_bytes, config.port) == ("m", 1024, 8000)
