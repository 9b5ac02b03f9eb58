"""What a client can hold of the gateway is bounded in size and in time."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.tls import server_context
from router.output import OutputDelta
from wire.messages import FinishReason

Start = Callable[..., Any]
AnswerOf = Callable[..., list[OutputDelta]]
PATH = "/v1/completions"
BODY = {"model": "tiny", "prompt": "x"}
HALF = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nx-slow: "


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What the server sends until it closes the connection."""
    async with asyncio.timeout(60):
        return await reader.read()


@pytest.mark.parametrize("start", [b"", HALF], ids=["nothing", "half"])
async def test_headers_that_do_not_come_close_the_connection(
    start_gateway: Start, start: bytes
) -> None:
    async with start_gateway(lambda _: [], header_timeout_s=0.1) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(start)
        answer = await closed(reader)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ") and b"header_timeout" in answer


async def test_headers_that_trickle_on_a_used_connection_close_it(start_gateway: Start) -> None:
    async with start_gateway(lambda _: [], header_timeout_s=0.5) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        writer.write(HALF)
        assert (await closed(reader)).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_headers_without_end_are_a_431(start_gateway: Start) -> None:
    async with start_gateway(lambda _: []) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(HALF + b"x" * (80 << 10))
        assert (await closed(reader)).startswith(b"HTTP/1.1 431 ")
        writer.close()


async def test_a_body_that_no_page_reads_does_not_keep_the_connection(start_gateway: Start) -> None:
    async with start_gateway(lambda _: []) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n")
        assert (await closed(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_a_first_token_is_a_503_that_may_be_tried_again(
    start_gateway: Start, answer_of: AnswerOf, stream: bool
) -> None:
    script = lambda _: [asyncio.Event(), *answer_of([9])]  # noqa: E731
    async with start_gateway(script, first_token_timeout_s=0.1) as gateway:
        response = await gateway.client.post(PATH, json={**BODY, "stream": stream})
        await gateway.until_idle()  # which a slow machine may be before the router has the request
        assert len(gateway.router.closed_early) == len(gateway.router.requests)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "first_token_timeout"
    assert response.headers["retry-after"] == "1"


async def test_a_first_token_in_time_is_enough(start_gateway: Start, answer_of: AnswerOf) -> None:
    gate = asyncio.Event()
    first, *others = answer_of([300, 301])
    script = lambda _: [first, gate, *others]  # noqa: E731
    async with start_gateway(script, first_token_timeout_s=0.5) as gateway:
        asyncio.get_running_loop().call_later(0.7, gate.set)
        response = await gateway.client.post(PATH, json=BODY)
    assert response.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_takes_too_long_ends_with_an_error(
    start_gateway: Start, answer_of: AnswerOf, stream: bool
) -> None:
    first, *others = answer_of([300, 301])
    script = lambda _: [first, asyncio.Event(), *others]  # noqa: E731
    async with start_gateway(script, request_timeout_s=0.5) as gateway:
        response = await gateway.client.post(PATH, json={**BODY, "stream": stream})
        assert gateway.router.closed_early
    assert response.status_code == (200 if stream else 504)
    assert "request_timeout" in response.text
    assert response.text.endswith("data: [DONE]\n\n") is stream


class SlowClient:
    """Asks for a stream and reads nothing of it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port))
        body = b'{"model":"tiny","prompt":"x","stream":true,"max_tokens":200}'
        head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._socket.sendall(head + body)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def flood() -> AsyncIterator[Callable[[int], list[OutputDelta]]]:
    """flood(n): n deltas of which each makes a large event."""

    def make(num_deltas: int) -> list[OutputDelta]:
        return [OutputDelta((300,) * 2000) for _ in range(num_deltas)]

    yield make


async def test_a_client_that_reads_nothing_is_cut_off_and_its_request_cancelled(
    start_gateway: Start, flood: Callable[[int], list[OutputDelta]]
) -> None:
    script = lambda _: [*flood(100), asyncio.Event()]  # noqa: E731
    async with start_gateway(script, stall_timeout_s=0.2, send_buffer_bytes=4096) as gateway:
        client = SlowClient(gateway.port)
        async with asyncio.timeout(60):
            await gateway.router.until(lambda: bool(gateway.router.closed_early))
            await gateway.until_idle()
        client.close()
        assert gateway.value("baton_requests_total", endpoint="completions", outcome="disconnected")


async def test_a_client_that_falls_far_behind_is_cut_off_before_its_time(
    start_gateway: Start, flood: Callable[[int], list[OutputDelta]]
) -> None:
    """What waits for a reader is bounded in memory, not by the stall's time alone."""
    full = asyncio.Event()
    many = [OutputDelta((300,)) for _ in range(4200)]
    script = lambda _: [*flood(100), full, *many, asyncio.Event()]  # noqa: E731
    async with start_gateway(script, stall_timeout_s=600.0, send_buffer_bytes=4096) as gateway:
        client = SlowClient(gateway.port)
        asyncio.get_running_loop().call_later(0.3, full.set)
        async with asyncio.timeout(60):
            await gateway.router.until(lambda: bool(gateway.router.closed_early))
            await gateway.until_idle()
        client.close()


async def test_a_slow_reader_that_goes_on_reading_gets_everything(
    start_gateway: Start, flood: Callable[[int], list[OutputDelta]]
) -> None:
    end = OutputDelta((300,), FinishReason.LENGTH)
    async with (
        start_gateway(
            lambda _: [*flood(100), end], stall_timeout_s=60.0, send_buffer_bytes=4096
        ) as gateway,
        gateway.client.stream("POST", PATH, json={**BODY, "stream": True}) as response,
    ):
        pieces = []
        async for piece in response.aiter_raw(65536):
            pieces.append(piece)
            await asyncio.sleep(0.001)
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("limits", "body", "param", "code"),
    [
        ({"max_prompt_tokens": 3}, {"prompt": [1, 2, 3, 4]}, "prompt", "prompt_too_long"),
        ({"max_choices": 2}, {"prompt": "x", "n": 3}, "n", None),
        ({"max_choices": 2}, {"prompt": ["x", "y"], "n": 2}, "n", None),
    ],
)
async def test_a_request_over_a_limit_is_a_400_with_both_numbers(
    start_gateway: Start, limits: Any, body: Any, param: str, code: str | None
) -> None:
    async with start_gateway(lambda _: [], **limits) as gateway:
        response = await gateway.client.post(PATH, json={"model": "tiny", **body})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert str(next(iter(limits.values()))) in error["message"]


async def test_pages_of_allowed_origins_may_call(start_gateway: Start, answer_of: AnswerOf) -> None:
    origin = {"origin": "https://app.example"}
    ask = {**origin, "access-control-request-method": "POST"}
    script = lambda _: answer_of([300])  # noqa: E731
    async with start_gateway(script, cors_origins=("https://app.example",)) as gateway:
        asked = await gateway.client.options(PATH, headers=ask)
        answer = await gateway.client.post(PATH, json=BODY, headers=origin)
        stream = await gateway.client.post(PATH, json={**BODY, "stream": True}, headers=origin)
        other = await gateway.client.options(PATH, headers={**ask, "origin": "https://b.example"})
    allowed = "access-control-allow-origin"
    for response in (asked, answer, stream):
        assert response.status_code == 200
        assert response.headers[allowed] == "https://app.example"
    assert allowed not in other.headers
    async with start_gateway(script) as gateway:
        answer = await gateway.client.post(PATH, json=BODY, headers=origin)
    assert allowed not in answer.headers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A certificate and its key in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    key = path.with_name("key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", path, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + key.read_bytes())
    yield path


async def test_tls_is_spoken_from_the_least_version_on(
    start_gateway: Start, answer_of: AnswerOf, certificate: Path
) -> None:
    tls = server_context(str(certificate), "", "1.3")
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with start_gateway(lambda _: answer_of([300, 301]), tls=tls) as gateway:
        url = f"https://127.0.0.1:{gateway.port}"
        async with httpx.AsyncClient(base_url=url, verify=trusting, timeout=60) as client:
            response = await client.post(PATH, json={**BODY, "stream": True})
            assert response.text.endswith("data: [DONE]\n\n")
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        async with httpx.AsyncClient(base_url=url, verify=trusting, timeout=60) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/livez")


async def test_over_tls_a_refused_client_may_send_the_rest_of_its_body(
    start_gateway: Start, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.connection.LINGER_S", 60.0)
    tls = server_context(str(certificate), "", "1.2")
    trusting = ssl.create_default_context(cafile=str(certificate))
    size = 8 << 20
    async with start_gateway(lambda _: [], tls=tls) as gateway, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trusting)
        writer.write(b"POST /v1/nothing HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 404 ") and b"connection: close" in head
        for _ in range(size >> 16):
            writer.write(b" " * (1 << 16))
            await writer.drain()  # a reset connection would raise
        writer.close()
        assert gateway.router.requests == []


def test_a_certificate_that_cannot_be_used_is_named(certificate: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="tls_certificate .*nothing.pem: No such file"):
        server_context(str(tmp_path / "nothing.pem"), "", "1.2")
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(OSError, match="tls_certificate .*bad.pem"):
        server_context(str(tmp_path / "bad.pem"), "", "1.2")
    with pytest.raises(ValueError, match=r"tls_min_version must be 1.2 or 1.3, is '1.1'"):
        server_context(str(certificate), "", "1.1")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_clients_ids_come_back_and_stages_where_it_asks_for_them(
    start_gateway: Start, answer_of: AnswerOf, stream: bool
) -> None:
    span = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"x-request-id": "mine-1", "traceparent": span, "x-baton-timing": "1"}
    headers["x-baton-keep-s"] = "30"
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        body = {**BODY, "stream": stream}
        response = await gateway.client.post(PATH, json=body, headers=headers)
        plain = await gateway.client.post(PATH, json=body)
        bad = {"x-request-id": "a b", "traceparent": "zzz"}
        ignored = await gateway.client.post(PATH, json=body, headers=bad)
        assert [request.keep_s for request in gateway.router.requests] == [30.0, 0.0, 0.0]
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["traceparent"] == span
    if not stream:
        assert "prefill;dur=" in response.headers["server-timing"]
    for other in (plain, ignored):
        assert other.headers["x-request-id"].startswith("cmpl")
        assert not {"traceparent", "server-timing"} & set(other.headers)


@pytest.mark.slow
async def test_a_thousand_slow_clients_leave_the_server_healthy(
    start_gateway: Start, answer_of: AnswerOf
) -> None:
    """Slow loris: half of them send their headers byte by byte, half their bodies."""
    limits = {"header_timeout_s": 3.0, "body_timeout_s": 3.0}
    head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9999\r\n\r\n"
    async with start_gateway(lambda _: answer_of([300]), **limits) as gateway:
        opened = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(1000)]
        for index, (_, writer) in enumerate(opened):
            writer.write(head if index % 2 else HALF)
        for _ in range(5):
            for _, writer in opened:
                writer.write(b"G")
            async with asyncio.timeout(15):  # on a busy machine; an idle one takes milliseconds
                response = await gateway.client.post(PATH, json=BODY)
            assert response.status_code == 200
            await asyncio.sleep(0.2)
        for reader, _ in opened:
            await closed(reader)
        for _, writer in opened:
            writer.close()
        assert (await gateway.client.post(PATH, json=BODY)).status_code == 200
