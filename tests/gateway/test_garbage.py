"""What a request leaves behind: nothing that takes a garbage collection to be freed."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wire.errors import BatonError, ErrorCode

NUM_REQUESTS = 40
CASES = [
    ("/v1/completions", {"prompt": "x", "stream": True}),
    ("/v1/completions", {"prompt": "x", "stop": ["never"]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ("/v1/completions", {"prompt": "x", "temperature": 9}),
    ("/v1/completions", {"prompt": "too much"}),
]


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Client:
    """One connection that is kept; httpx would leave cycles of its own."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Client":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def post(self, path: str, body: dict[str, Any], end: bytes) -> bytes:
        content = json.dumps({"model": "tiny", **body}).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        return await self._reader.readuntil(end)


@pytest.mark.parametrize(("path", "body"), CASES)
@pytest.mark.usefixtures("no_collection")
async def test_requests_leave_nothing_to_the_garbage_collector(
    start_gateway: Callable[..., Any],
    answer_of: Callable[..., Any],
    path: str,
    body: dict[str, Any],
) -> None:
    def script(request: Any) -> list[Any]:
        if len(request.prompt_tokens) > 1:
            return [BatonError(ErrorCode.OVERLOADED, "no")]
        return list(answer_of([300, 301, 302]))

    end = b"0\r\n\r\n" if body.get("stream") else b"}}"
    async with (
        start_gateway(script) as gateway,
        Client(gateway.port) as client,
    ):
        for _ in range(3):  # what the first ones make is kept
            await client.post(path, body, end)
        await gateway.until_idle()
        gc.collect()
        for _ in range(NUM_REQUESTS):
            await client.post(path, body, end)
        await gateway.until_idle()
        num_left = gc.collect()
    assert num_left < NUM_REQUESTS
