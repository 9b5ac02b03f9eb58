"""A client's connection: uvicorn's, with the limits that uvicorn lacks."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.answer_transport import AnswerTransport
from gateway.client_certificate import STRANGER
from gateway.limits import MAX_HEADER_BYTES, Limits

LINGER_S = 5.0
LINGER_BYTES = 64 << 20
ABORT = "baton.abort"  # the extension of a scope that drops its connection at once
ON_GONE = "baton.on_gone"  # the extension that takes what to call when the client goes, see on_gone
WRITE = "baton.write"  # the extension that writes to a stream that has begun, see write_chunk


class Connection(HttpToolsProtocol):
    """Bounds what a client can hold without sending a request or reading an answer.

    WAITING -> first byte or connection -> HEADERS -> headers complete -> WAITING; the time in
    HEADERS and its bytes are bounded. Independently, FLOWING -> write buffer full -> STALLED ->
    drained -> FLOWING; the time in STALLED is bounded, and its end drops the connection.

    An answer that is out before its request's body is in says connection: close, and makes it
    LINGERING: what still comes is thrown away, in bounded size and time, as a connection that is
    closed with unread data takes the answer back.
    """

    limits = Limits()
    asks_for_certificate = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._num_discarded_bytes = 0
        self._header_bytes = 0
        self._tell_gone: Callable[[], None] | None = None
        self._is_stranger = False  # has no certificate, where one is asked for

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.asks_for_certificate:
            self._is_stranger = not transport.get_extra_info("peercert")
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_headers()
        self._end_stall()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        super().connection_lost(exc)
        if self._tell_gone is not None:
            self._tell_gone()
            self._tell_gone = None

    def data_received(self, data: bytes) -> None:
        if self._linger_timer is not None:
            self._discard(data)
            return
        super().data_received(data)
        if self._header_timer is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {
            ABORT: self.transport.abort,  # type: ignore[dict-item]
            ON_GONE: self.on_gone,  # type: ignore[dict-item]
            WRITE: partial(self.write_chunk, self.scope),  # type: ignore[dict-item]
        }
        if self._is_stranger:
            self.scope["extensions"][STRANGER] = {}
        if self._header_timer is None:
            self._await_headers()

    def on_gone(self, tell: Callable[[], None]) -> None:
        """tell is called if the client goes before the answer that is being made has ended."""
        if self.transport.is_closing():
            tell()
        else:
            self._tell_gone = tell

    def write_chunk(self, scope: object, chunk: bytes) -> bool:
        """Writes a part of the answer to `scope` at once, as send() would.

        False, and nothing written, where it is not sent in chunks, has ended or has to wait.
        """
        cycle = self.cycle
        if cycle.scope is not scope or not cycle.chunked_encoding or cycle.response_complete:
            return False
        if cycle.disconnected or self.flow.write_paused:
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return True

    def on_headers_complete(self) -> None:
        self._end_headers()
        before = self.cycle
        super().on_headers_complete()
        cycle = self.cycle
        if cycle is not before and cycle.scope["method"] != "HEAD":  # whose head is all there is
            cycle.transport = AnswerTransport(self.transport, cycle)  # type: ignore[assignment]

    def on_response_complete(self) -> None:
        self._tell_gone = None
        if self.cycle.more_body and not self.pipeline:
            self._linger()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        timeout_s = self.limits.stall_timeout_s
        if timeout_s and self._stall_timer is None:
            self._stall_timer = self.loop.call_later(timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def _linger(self) -> None:
        if self.transport.is_closing():
            return
        self._linger_timer = self.loop.call_later(LINGER_S, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _discard(self, data: bytes) -> None:
        self._num_discarded_bytes += len(data)
        if self._num_discarded_bytes > LINGER_BYTES:
            self.transport.close()

    def _await_headers(self) -> None:
        self._header_bytes = 0
        self._header_timer = self.loop.call_later(
            self.limits.header_timeout_s, self._refuse, _TOO_SLOW
        )

    def _refuse(self, answer: bytes) -> None:
        self._end_headers()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(answer)
        self.transport.close()

    def _end_headers(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


def connections_with(limits: Limits, *, asks_for_certificate: bool = False) -> type[Connection]:
    """The class of a server's connections."""
    own = {"limits": limits, "asks_for_certificate": asks_for_certificate}
    return type("LimitedConnection", (Connection,), own)


def _answer(status: str, code: str, message: str) -> bytes:
    body = (
        f'{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,'
        f'"code":"{code}"}}}}'
    )
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"
    ).encode()


_TOO_SLOW = _answer(
    "408 Request Timeout", "header_timeout", "the request's headers did not arrive in time"
)
_TOO_LARGE = _answer(
    "431 Request Header Fields Too Large",
    "headers_too_large",
    f"the request's headers are over the limit of {MAX_HEADER_BYTES} bytes",
)
