"""Connections to one server, reused, and as many as there are requests under way.

An HTTP/1.1 client for one purpose: requests are written in one piece, responses go to an Answer
as they come. Parsing is httptools', as in uvicorn.
"""

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from loadtest.target import Target

Now = Callable[[], float]


class Answer(Protocol):
    """What becomes of a response."""

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """headers: names in lower case."""
        ...

    def body(self, data: bytes, now: float) -> None: ...

    def finish(self, failure: str, now: float) -> None:
        """Nothing more comes; failure: why the response broke off, else empty."""
        ...


class Exchange:
    """One request and its answer. on_end is called once, at `ended`: nothing more comes."""

    __slots__ = ("answer", "connection", "ended", "on_end", "request", "was_retried")

    def __init__(
        self, request: bytes, answer: Answer, on_end: Callable[["Exchange"], None]
    ) -> None:
        self.request = request
        self.answer = answer
        self.on_end = on_end
        self.connection: Connection | None = None
        self.ended: float | None = None
        self.was_retried = False

    def end(self, failure: str, now: float) -> None:
        if self.ended is None:
            self.ended = now
            self.connection = None
            self.answer.finish(failure, now)
            self.on_end(self)


class Connections:
    """Owns all connections; close() closes them. Nothing here waits for a free connection.

    due: the time at which on_due wants to be called. Arriving data checks it too, since a loop
    with a thousand busy connections comes round to its timers late.
    """

    def __init__(self, target: Target, now: Now) -> None:
        self._target = target
        self._tls = ssl.create_default_context() if target.is_tls else None
        self._now = now
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self.num_opened = 0
        self.due = math.inf
        self.on_due: Callable[[], None] = _nothing

    @property
    def num_open(self) -> int:
        return len(self._all)

    def start(self, exchange: Exchange) -> None:
        """Sends at once on an idle connection, else as soon as a new one stands."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                connection.send(exchange)
                return
        task = asyncio.get_running_loop().create_task(self._open(exchange))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def abort(self, exchange: Exchange, reason: str) -> None:
        """Ends an exchange from this side; its connection is closed."""
        connection = exchange.connection
        exchange.end(reason, self._now())
        if connection is not None:
            connection.abort()

    def release(self, connection: "Connection") -> None:
        self._idle.append(connection)

    def forget(self, connection: "Connection") -> None:
        self._all.discard(connection)

    async def close(self) -> None:
        for task in tuple(self._opening):
            task.cancel()
        if self._opening:
            await asyncio.wait(tuple(self._opening))
        for connection in tuple(self._all):
            connection.abort()

    async def _open(self, exchange: Exchange) -> None:
        target = self._target
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self, self._now), target.host, target.port, ssl=self._tls
            )
        except OSError as error:
            exchange.end(f"cannot connect: {error.strerror or error}", self._now())
            return
        self.num_opened += 1
        self._all.add(connection)
        if exchange.ended is not None:  # it timed out while the connection was made
            self.release(connection)
            return
        connection.send(exchange)


class Connection(asyncio.Protocol):
    """One TCP connection: IDLE -> send -> BUSY -> response complete -> IDLE | CLOSED."""

    def __init__(self, owner: Connections, now: Now) -> None:
        self._owner = owner
        self._now = now
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._exchange: Exchange | None = None
        self._num_answers = 0
        self._has_answer = False  # of the exchange under way, at least one byte
        self._arrived = 0.0

    @property
    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange) -> None:
        assert self._exchange is None and self._transport is not None
        self._exchange = exchange
        self._has_answer = False
        exchange.connection = self
        self._transport.write(exchange.request)

    def abort(self) -> None:
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._arrived = self._now()
        self._has_answer = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:  # our bug, not the server's bytes
            raise
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
            if self._transport is not None:
                self._transport.abort()
        if self._arrived >= self._owner.due:
            self._owner.on_due()

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.forget(self)
        exchange = self._exchange
        was_closed_idle = self._num_answers > 0 and not self._has_answer  # as we wrote
        if exchange is not None and was_closed_idle and not exchange.was_retried:
            exchange.was_retried = True
            self._exchange = None
            self._owner.start(exchange)
            return
        self._arrived = self._now()
        self._fail(f"connection lost: {error}" if error else "the server closed the connection")

    def on_message_begin(self) -> None:
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.answer.head(self._parser.get_status_code(), self._headers)

    def on_body(self, body: bytes) -> None:
        if self._exchange is not None:
            self._exchange.answer.body(body, self._arrived)

    def on_message_complete(self) -> None:
        self._num_answers += 1
        exchange, self._exchange = self._exchange, None
        if self._parser.should_keep_alive():
            self._owner.release(self)
        elif self._transport is not None:
            self._transport.close()
        if exchange is not None:
            exchange.end("", self._arrived)

    def _fail(self, reason: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(reason, self._arrived)


def _nothing() -> None:
    """Nobody waits for a time."""
