"""An answer that is out before its request's body is in: no later byte is taken for a request."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.gate import Gate
from runtime.clock import SystemClock

Start = Callable[..., Any]
BODY = b'{"model":"tiny","prompt":"x"}'
SMUGGLED = b"GET /version HTTP/1.1\r\nhost: a\r\n\r\n"
# what is asked for, with which key, and the refusal
REFUSALS = [
    ("/v1/completions", b"", 401),
    ("/v1/messages", b"", 401),
    ("/tokenize", b"", 401),
    ("/v1/completions", b"authorization: Bearer spent\r\n", 429),
    ("/tokenize", b"authorization: Bearer spent\r\n", 429),
    ("/v1/embeddings", b"", 400),
    ("/v1/nothing", b"", 404),
    ("/v1/models", b"", 405),
]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take long to send a body."""
    monkeypatch.setattr("gateway.connection.LINGER_S", 60.0)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    entry = '[[tenants]]\nname = "{0}"\nkey_sha256 = ["{1}"]\nrequests_per_minute = {2}\n'
    rows = (("spent", 1), ("acme", 0))
    text = "".join(
        entry.format(name, hashlib.sha256(name.encode()).hexdigest(), limit) for name, limit in rows
    )
    file = tmp_path / "tenants.toml"
    file.write_text(text)
    found = Gate(file, SystemClock())
    found.account([(b"authorization", b"Bearer spent")]).take_request()
    return found


@asynccontextmanager
async def connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(60):
        yield reader, writer
    writer.close()


async def answered(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of one answer."""
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(status.split()[1]), headers, body


def head(path: str, key: bytes, framing: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: a\r\n%s%s\r\n\r\n" % (path.encode(), key, framing)


@pytest.mark.parametrize("framing", [b"content-length: 2000", b"transfer-encoding: chunked"])
async def test_a_refusal_before_the_body_ends_the_connection_and_no_body_is_a_request(
    start_gateway: Start, gate: Gate, framing: bytes
) -> None:
    async with start_gateway(lambda _: [], gate=gate) as gateway:
        for path, key, status in REFUSALS:
            async with connection(gateway.port) as (reader, writer):
                writer.write(head(path, key, framing))
                found, headers, _ = await answered(reader)
                assert (found, headers["connection"]) == (status, "close"), path
                writer.write(SMUGGLED * 20)  # late, and in the body as well as behind it
                assert await reader.read() == b"", path
        assert gateway.router.requests == []


async def test_a_refusal_after_the_body_keeps_the_connection(
    start_gateway: Start, answer_of: Callable[..., Any], gate: Gate
) -> None:
    length = b"content-length: %d" % len(BODY)
    good = head("/v1/completions", b"x-api-key: acme\r\n", length) + BODY
    async with (
        start_gateway(lambda _: answer_of([300]), gate=gate) as gateway,
        connection(gateway.port) as (reader, writer),
    ):
        for path, key, status in REFUSALS:
            refused = head(path, key, length) + BODY
            writer.write(refused + good + refused)
            for expected in (status, 200, status):
                found, headers, _ = await answered(reader)
                assert (found, headers.get("connection")) == (expected, None), path
        assert len(gateway.router.requests) == len(REFUSALS)


async def test_a_client_that_sends_all_of_a_large_body_first_reads_why_it_was_refused(
    start_gateway: Start, gate: Gate
) -> None:
    size = 8 << 20
    async with (
        start_gateway(lambda _: [], gate=gate) as gateway,
        connection(gateway.port) as (reader, writer),
    ):
        writer.write(head("/v1/completions", b"", b"content-length: %d" % size))
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(size >> 16):
            writer.write(b" " * (1 << 16))
            await writer.drain()  # a reset connection would raise
        assert b"invalid_api_key" in await reader.read()


@pytest.mark.parametrize("limit", ["LINGER_S", "LINGER_BYTES"])
async def test_a_client_that_never_ends_its_body_is_cut_off(
    start_gateway: Start, gate: Gate, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"gateway.connection.{limit}", 0.05 if limit == "LINGER_S" else 1 << 20)
    async with (
        start_gateway(lambda _: [], gate=gate) as gateway,
        connection(gateway.port) as (reader, writer),
    ):
        writer.write(head("/v1/completions", b"", b"content-length: 99999999"))
        await answered(reader)
        with pytest.raises(OSError):
            while True:
                writer.write(b" " * 4096)
                await writer.drain()
                await asyncio.sleep(0)


async def test_a_client_that_waits_for_leave_is_told_before_it_sends(
    start_gateway: Start, gate: Gate
) -> None:
    async with (
        start_gateway(lambda _: [], gate=gate) as gateway,
        connection(gateway.port) as (reader, writer),
    ):
        framing = b"content-length: %d\r\nexpect: 100-continue" % len(BODY)
        writer.write(head("/v1/completions", b"", framing))
        status, headers, _ = await answered(reader)
        assert (status, headers["connection"]) == (401, "close")
        assert await reader.read() == b""


async def test_a_draining_server_does_not_wait_for_a_body_that_it_has_refused(
    start_gateway: Start, gate: Gate
) -> None:
    peer = socket.socket()
    async with start_gateway(lambda _: [], gate=gate) as gateway:
        loop = asyncio.get_running_loop()
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(peer, head("/v1/completions", b"", b"content-length: 9"))
        assert (await loop.sock_recv(peer, 4096)).startswith(b"HTTP/1.1 401 ")
        gateway.stop.set()
        async with asyncio.timeout(30):
            await asyncio.shield(gateway.serving)
    peer.close()
