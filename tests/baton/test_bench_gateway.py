"""What the bench of the gateway does with answers that are none."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from baton.bench.gateway_load import OpenStreams, RefusedError, closed_loop, http_request
from baton.bench.row import Row, failed_row
from baton.commands import bench

_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_REFUSAL)
    writer.close()
    await writer.wait_closed()


async def test_a_refused_request_ends_the_load_with_the_answer_as_its_reason():
    async with await asyncio.start_server(_serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(60):
            with pytest.raises(ExceptionGroup) as failed:
                await closed_loop(port, [http_request("/", {})], 1, b"}")
    assert isinstance(failed.value.exceptions[0], RefusedError)
    assert "503" in str(failed.value.exceptions[0])


async def test_a_refused_stream_does_not_count_as_open():
    async with await asyncio.start_server(_serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        streams = OpenStreams(port, http_request("/", {}))
        try:
            async with asyncio.timeout(60):
                with pytest.raises(RefusedError, match="503"):
                    await streams.open(3)
        finally:
            streams.close()


def test_a_row_that_failed_says_why_and_those_before_it_are_written(
    run_in_process: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    row = Row("gateway.request", 1.0, "ms CPU", "plain", 0.5, 2.0)
    written = []

    def run(repeats: int) -> Iterator[Row]:
        yield row
        written.append(file.exists())
        yield failed_row("gateway.streams", "not done after 240 s")

    file = tmp_path / "rows.json"
    importing = SimpleNamespace(import_module=lambda name: SimpleNamespace(run=run))
    monkeypatch.setattr(bench, "importlib", importing)
    code, _ = run_in_process("bench", "gateway", "--json", str(file))
    assert (code, written) == (1, [True])
    rows = msgspec.json.decode(file.read_bytes())["rows"]
    assert [found["failure"] for found in rows] == ["", "not done after 240 s"]
