"""A connection's transport for one answer: its head goes out with what follows it."""

import asyncio
from typing import Protocol
from weakref import ref

_INFORMATIONAL = b"HTTP/1.1 1"
_CLOSE = b"connection: close\r\n"


class Cycle(Protocol):
    """What of uvicorn's cycle tells how far request and answer are."""

    more_body: bool
    response_complete: bool
    keep_alive: bool


class AnswerTransport:
    """Keeps the status line and headers until the first part of the answer's body.

    By then it is known whether the request's body is in. Of one that is not, no later byte can
    belong to another request: the head says connection: close, and close() at the answer's end is
    left to the connection, which lingers.
    """

    def __init__(self, transport: asyncio.Transport, cycle: Cycle) -> None:
        """cycle: has this transport, and is not kept by it."""
        self._transport = transport
        self._cycle = ref(cycle)
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is None and not data.startswith(_INFORMATIONAL):
            self._head = data
        elif self._head:
            data, self._head = self._whole_head() + data, b""
            self._transport.write(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self.write(b"")
        cycle = self._cycle()
        if cycle is None or not (cycle.more_body and cycle.response_complete):
            self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _whole_head(self) -> bytes:
        head = self._head or b""
        cycle = self._cycle()
        if cycle is None or not (cycle.more_body and cycle.keep_alive):
            return head
        cycle.keep_alive = False
        return head[:-2] + _CLOSE + head[-2:]
