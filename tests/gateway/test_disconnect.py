"""A client that leaves at any stage leaves nothing behind: no request, no task, no metric."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gateway.model_directory import ModelFiles
from gateway.tokenizer import Prompt, PromptEncoder, PromptTokens
from router.output import OutputDelta
from wire.messages import FinishReason, GenerateRequest

Start = Callable[..., Any]
TEXT = "/v1/completions"


def request_bytes(**fields: Any) -> bytes:
    body = json.dumps({"model": "tiny", "prompt": "x", **fields}).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def assert_disconnected(gateway: Any, count: int = 1) -> None:
    """Waits for the outcome; a leak runs into the test's time-out."""
    labels = {"endpoint": "completions", "outcome": "disconnected"}
    while gateway.value("baton_requests_total", **labels) < count:
        await asyncio.sleep(0)
    await gateway.until_idle()
    assert gateway.router.running == set()


async def test_leaving_while_the_body_is_sent(start_gateway: Start) -> None:
    async with start_gateway(lambda _: []) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes()[:-3])
        await writer.drain()
        await gateway.client.get("/livez")  # the server has read what was sent before
        await leave(writer)
        await assert_disconnected(gateway)
        assert gateway.router.requests == []


class GatedEncoder(PromptEncoder):
    """Stands still in the middle of tokenizing."""

    entered: asyncio.Event
    gate: asyncio.Event

    async def encode(
        self, prompts: Sequence[Prompt], *, add_special_tokens: bool, salt: str = ""
    ) -> list[PromptTokens]:
        self.entered.set()
        await self.gate.wait()
        return await super().encode(prompts, add_special_tokens=add_special_tokens, salt=salt)


async def test_leaving_while_the_prompt_is_tokenized(
    start_gateway: Start, model: ModelFiles
) -> None:
    encoder = GatedEncoder(model.tokenizer)
    encoder.entered, encoder.gate = asyncio.Event(), asyncio.Event()
    forever = asyncio.Event()
    async with start_gateway(lambda _: [forever], encoder=encoder) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes())
        await encoder.entered.wait()
        await leave(writer)
        encoder.gate.set()
        await assert_disconnected(gateway)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_token(start_gateway: Start, stream: bool) -> None:
    forever = asyncio.Event()
    async with start_gateway(lambda _: [forever]) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes(stream=stream))
        await gateway.router.until(lambda: len(gateway.router.running) == 1)
        assert gateway.value("baton_requests_in_flight") == 1
        await leave(writer)
        await assert_disconnected(gateway)
        assert len(gateway.router.closed_early) == 1


async def test_leaving_in_the_middle_of_a_stream(start_gateway: Start) -> None:
    forever = asyncio.Event()
    async with start_gateway(lambda _: [OutputDelta((70, 71)), forever]) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes(stream=True))
        assert b"data: {" in await reader.readuntil(b"\n\n")
        await leave(writer)
        await assert_disconnected(gateway)


async def test_leaving_while_an_answer_that_is_not_streamed_is_written(
    start_gateway: Start,
) -> None:
    forever = asyncio.Event()
    async with start_gateway(lambda _: [OutputDelta((70, 71)), forever]) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes())
        await gateway.router.until(lambda: len(gateway.router.running) == 1)
        await leave(writer)
        await assert_disconnected(gateway)


async def test_leaving_a_batch_cancels_every_prompt(start_gateway: Start) -> None:
    forever = asyncio.Event()
    async with start_gateway(lambda _: [OutputDelta((70,)), forever]) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes(prompt=["a", "b", "c"], stream=True))
        await gateway.router.until(lambda: len(gateway.router.running) == 3)
        await leave(writer)
        await assert_disconnected(gateway)
        assert len(gateway.router.closed_early) == 3


async def test_a_client_that_does_not_read_holds_nothing_up_and_may_leave(
    start_gateway: Start,
) -> None:
    """The answer is far larger than every buffer between the two."""
    forever = asyncio.Event()

    def script(_: GenerateRequest) -> list[Any]:
        return [OutputDelta(tuple(range(70, 90)) * 40_000), forever]

    async with start_gateway(script) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1)
        writer.write(request_bytes(stream=True, prompt=["a", "b"]))
        await gateway.router.until(lambda: len(gateway.router.running) == 2)
        assert (await gateway.client.get("/livez")).status_code == 200
        await leave(writer)
        await assert_disconnected(gateway)


async def test_many_clients_leaving_at_once_leave_nothing(start_gateway: Start) -> None:
    forever = asyncio.Event()
    async with start_gateway(lambda _: [OutputDelta((70,)), forever]) as gateway:
        connections = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(32)]
        for _, writer in connections:
            writer.write(request_bytes(stream=True))
        await gateway.router.until(lambda: len(gateway.router.running) == 32)
        await asyncio.gather(*(leave(writer) for _, writer in connections))
        await assert_disconnected(gateway, 32)


async def test_a_connection_is_used_again_after_a_stream(start_gateway: Start) -> None:
    async with start_gateway(answer_of_one) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for _ in range(3):
            writer.write(request_bytes(stream=True))
            received = await reader.readuntil(b"0\r\n\r\n")
            assert b"[DONE]" in received
        await leave(writer)


def answer_of_one(_: GenerateRequest) -> list[OutputDelta]:
    return [OutputDelta((70,), FinishReason.LENGTH)]
