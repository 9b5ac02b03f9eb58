"""What goes over the connection before and between the parts of an answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from router.output import OutputDelta
from wire.messages import FinishReason

Start = Callable[..., Any]
WAIT_S = 30.0
BODY = b'{"model": "tiny", "prompt": "x", "max_tokens": 2, "stream": true}'


@asynccontextmanager
async def connected(
    gateway: Any,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        async with asyncio.timeout(WAIT_S):
            yield reader, writer
    finally:
        writer.close()


def post(*headers: bytes) -> bytes:
    lines = (b"POST /v1/completions HTTP/1.1", b"host: a", *headers)
    return b"\r\n".join(lines) + b"\r\ncontent-length: %d\r\n\r\n" % len(BODY)


def short(_: object) -> list[OutputDelta]:
    return [OutputDelta((70,)), OutputDelta((71,), FinishReason.LENGTH)]


async def test_a_head_alone_is_sent_where_no_body_follows(start_gateway: Start) -> None:
    async with start_gateway(short) as gateway, connected(gateway) as (reader, writer):
        for _ in range(2):
            writer.write(b"HEAD /livez HTTP/1.1\r\nhost: a\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")


async def test_leave_to_send_goes_before_the_answers_head(start_gateway: Start) -> None:
    async with start_gateway(short) as gateway, connected(gateway) as (reader, writer):
        writer.write(post(b"expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert b"[DONE]" in await reader.readuntil(b"\r\n0\r\n\r\n")


async def test_answers_to_requests_sent_at_once_come_one_after_the_other(
    start_gateway: Start,
) -> None:
    async with start_gateway(short) as gateway, connected(gateway) as (reader, writer):
        writer.write((post() + BODY) * 3 + b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        for _ in range(3):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert b"[DONE]" in await reader.readuntil(b"\r\n0\r\n\r\n")
        assert b"alive" in await reader.readuntil(b"}")


async def test_the_head_of_a_stream_does_not_wait_for_a_second_token(start_gateway: Start) -> None:
    gate = asyncio.Event()

    def held(_: object) -> list[object]:
        return [OutputDelta((70,)), gate, OutputDelta((71,), FinishReason.LENGTH)]

    async with start_gateway(held) as gateway, connected(gateway) as (reader, writer):
        writer.write(post() + BODY)
        assert b"data: " in await reader.readuntil(b"\n\n")
        gate.set()
        assert b"[DONE]" in await reader.readuntil(b"\r\n0\r\n\r\n")
