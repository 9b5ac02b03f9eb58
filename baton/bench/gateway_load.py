"""A closed-loop HTTP client that reads answers without parsing them."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast


class RefusedError(Exception):
    """An answer that is none: what came instead of 200."""


@dataclass(slots=True)
class Reading:
    """One answer: seconds to its first event, and how many events came."""

    first_s: float = 0.0
    num_events: int = 0


@dataclass(slots=True)
class ClientConnection(asyncio.Protocol):
    """Sends one request at a time over a connection that is kept."""

    transport: asyncio.Transport | None = None
    reading: Reading = field(default_factory=Reading)
    begun_s: float = 0.0
    done: asyncio.Future[None] | None = None
    opened: asyncio.Future[None] | None = None
    tail: bytes = b""
    end: bytes = b""
    is_answered: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reading = self.reading
        seen = self.tail + data
        if not self.is_answered:
            self.is_answered = True
            if not data.startswith(b"HTTP/1.1 200"):
                self.fail(RefusedError(data.decode(errors="replace")))
        if not reading.first_s and (b"\n\ndata: " in seen or b"data: {" in seen):
            reading.first_s = time.perf_counter() - self.begun_s
            if self.opened is not None and not self.opened.done():
                self.opened.set_result(None)
        reading.num_events += data.count(b"data: {")
        if self.end in seen and self.done is not None and not self.done.done():
            self.done.set_result(None)
        self.tail = seen[-len(self.end) :]

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(exc or ConnectionResetError("the server closed"))

    def fail(self, error: Exception) -> None:
        for waiting in (self.done, self.opened):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # nobody may be waiting

    def close(self) -> None:
        if self.done is not None:
            self.done.cancel()
        if self.transport is not None:
            self.transport.abort()

    def ask(self, request: bytes, end: bytes) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self.reading, self.tail, self.end, self.is_answered = Reading(), b"", end, False
        self.done, self.opened = loop.create_future(), loop.create_future()
        self.begun_s = time.perf_counter()
        assert self.transport is not None
        self.transport.write(request)
        return self.done


def http_request(path: str, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def closed_loop(
    port: int, requests: Sequence[bytes], concurrency: int, end: bytes
) -> list[Reading]:
    """Runs the requests, so many at a time. end: what an answer ends with."""
    waiting = iter(requests)
    readings: list[Reading] = []

    async def client(own: Iterator[bytes]) -> None:
        connection = await open_connection(port)
        try:
            for request in own:
                await connection.ask(request, end)
                readings.append(connection.reading)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(client(waiting))
    return readings


class OpenStreams:
    """Streams that are opened and then left to run, a few hundred at a time."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request
        self._connections: list[ClientConnection] = []

    async def open(self, count: int, at_a_time: int = 200) -> None:
        """Returns when each of them has its first event."""
        for start in range(0, count, at_a_time):
            number = min(at_a_time, count - start)
            fresh = await asyncio.gather(*(open_connection(self._port) for _ in range(number)))
            for connection in fresh:
                connection.ask(self._request, b"[DONE]")
            self._connections += fresh
            await asyncio.gather(*(c.opened for c in fresh if c.opened is not None))

    @property
    def num_failed(self) -> int:
        return sum(c.done is not None and c.done.done() for c in self._connections)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


async def open_connection(port: int) -> ClientConnection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(ClientConnection, "127.0.0.1", port)
    return connection
