"""The baseline: the least that Starlette on uvicorn can do for the same streams."""

import asyncio
import socket
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_CHUNK = (
    b'data: {"object":"text_completion","id":"cmpl-0123456789abcdef0123456789abcdef",'
    b'"created":1,"model":"tiny","choices":[{"index":0,"text":" word","finish_reason":null,'
    b'"logprobs":null}]}\n\n'
)


class _Ticker:
    """Puts a token on the list of each open stream, every tick_s; idle while there is none, so that
    it takes no processor from the server that is measured in turns with it."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._has_streams = asyncio.Event()
        self._streams: dict[int, tuple[list[bytes], asyncio.Event]] = {}

    def open(self, wake: asyncio.Event) -> list[bytes]:
        """The list of a stream that opens; wake: set with each token."""
        waiting: list[bytes] = []
        self._streams[id(wake)] = waiting, wake
        self._has_streams.set()
        return waiting

    def close(self, wake: asyncio.Event) -> None:
        del self._streams[id(wake)]
        if not self._streams:
            self._has_streams.clear()

    async def run(self) -> None:
        while True:
            await self._has_streams.wait()
            for waiting, wake in self._streams.values():
                waiting.append(_CHUNK)
                wake.set()
            await asyncio.sleep(self._tick_s)


def serve_plain(pipe: Connection, tick_s: float) -> None:
    """Sends its port, and serves until anything comes back."""
    ticker = _Ticker(tick_s)

    async def completions(request: Request) -> Response:
        body = await request.json()
        if not body["stream"]:
            return Response(_CHUNK.removeprefix(b"data: "), media_type="application/json")
        return StreamingResponse(
            _events(ticker, body["max_tokens"]), media_type="text/event-stream"
        )

    app = Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])

    async def run() -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        ticking = asyncio.create_task(ticker.run())
        while not server.started:
            await asyncio.sleep(0.01)
        pipe.send(listener.getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        server.should_exit = True
        ticking.cancel()
        await serving

    uvloop.run(run())


async def _events(ticker: _Ticker, num_tokens: int) -> AsyncIterator[bytes]:
    wake = asyncio.Event()
    waiting = ticker.open(wake)
    try:
        while num_tokens > 0:
            await wake.wait()
            wake.clear()
            taken = waiting[:num_tokens]
            waiting.clear()
            num_tokens -= len(taken)
            yield b"".join(taken)
        yield b"data: [DONE]\n\n"
    finally:
        ticker.close(wake)
