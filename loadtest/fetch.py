"""Single GET requests to the server under test: its model, its metrics."""

import asyncio
from dataclasses import dataclass

from loadtest.connections import Connections, Exchange
from loadtest.target import Target
from runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class Page:
    """A whole response. status is 0 when none came; failure says why."""

    status: int
    body: bytes
    failure: str = ""


async def get(target: Target, path: str, clock: Clock, timeout_s: float) -> Page:
    """Never raises for what the server or the network does."""
    connections = Connections(target, clock.now)
    ended = asyncio.Event()
    answer = _WholeAnswer()
    exchange = Exchange(target.head("GET", path) + b"0\r\n\r\n", answer, lambda _: ended.set())
    connections.start(exchange)
    try:
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        connections.abort(exchange, f"no answer in {timeout_s:g} s")
    finally:
        await connections.close()
    return Page(0 if answer.failure else answer.status, bytes(answer.content), answer.failure)


class _WholeAnswer:
    def __init__(self) -> None:
        self.status = 0
        self.content = bytearray()
        self.failure = ""

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status

    def body(self, data: bytes, now: float) -> None:
        self.content += data

    def finish(self, failure: str, now: float) -> None:
        self.failure = failure
