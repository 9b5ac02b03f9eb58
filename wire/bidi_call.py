"""One bidirectional gRPC call on a connection of its own, spoken without a gRPC library.

After gRPC's PROTOCOL-HTTP2.md. docs/adr/0021 has the reason and what it costs.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast
from urllib.parse import unquote

import grpc
from hpack import Decoder, HPACKError

from wire import http2
from wire.http2 import Frame, FrameError, FrameReader, Kind, Setting

_STREAM = 1  # the only one
_PREFIX_BYTES = 5  # a flag and the length before each message
_CREDIT_BYTES = 256 << 20  # as many have come: the peer may send as many again
_CONNECT_TIMEOUT_S = 5.0
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallError(Exception):
    """The call ended, and not with OK: gRPC's name of the code and what the peer says."""


class BidiCall(asyncio.Protocol):
    """CONNECTED -> OPEN -> ENDED; `ended` holds None for an end with OK, or why it ended.

    on_message hears of every message in the loop's callback that read it, so whoever was busy gets
    all that came meanwhile in one turn. What it raises ends the call.

    send() never waits: messages of one turn of the loop go out together at its end, and what the
    peer's window does not let through stays here. close() ends the call, and the peer hears that it
    was cancelled.
    """

    def __init__(self, fields: Sequence[tuple[str, str]], on_message: Callable[[bytes], None]):
        """fields: the request's headers."""
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._is_flushing = False  # it will, at the end of this turn
        self._fields = fields
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._messages = _Messages(on_message)
        self._headers = _Headers()
        self._num_read_bytes = 0  # that the peer has no credit for yet
        self._sender = _Sender()

    def send(self, message: bytes) -> None:
        self._sender.put(b"\0" + len(message).to_bytes(4) + message)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Safe to repeat, and after the end."""
        self._end(CallError("CANCELLED: this side gave it up"))

    # --- what the transport tells -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        credit = http2.MAX_WINDOW - http2.FIRST_WINDOW
        settings = ((Setting.ENABLE_PUSH, 0), (Setting.INITIAL_WINDOW_SIZE, http2.MAX_WINDOW))
        fields = http2.encode_fields(self._fields)
        self._transport.write(
            http2.PREFACE
            + http2.encode_settings(settings)
            + http2.encode_number(Kind.WINDOW_UPDATE, 0, credit)
            + http2.encode(Kind.HEADERS, http2.END_HEADERS, _STREAM, fields)
        )

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        try:
            for frame in self._reader.push(data):
                self._take(frame)
        except (FrameError, HPACKError) as error:
            self._end(CallError(f"INTERNAL: the peer does not speak gRPC: {error}"))
        except Exception as error:  # on_message's, for whoever waits for the end
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(CallError(f"UNAVAILABLE: the connection was lost: {exc or 'the peer closed it'}"))

    # --- what frames mean ---------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == Kind.DATA:
            self._messages.push(frame.content)
            self._give_credit(len(frame.payload))
        elif kind in (Kind.HEADERS, Kind.CONTINUATION):
            self._take_headers(frame)
        elif kind == Kind.WINDOW_UPDATE:
            self._sender.widen(frame.stream, frame.number() & http2.MAX_WINDOW)
            self._flush()
        elif kind == Kind.SETTINGS and not frame.flags & http2.ACK:
            self._sender.settle(dict(http2.decode_settings(frame.payload)))
            self._write(http2.encode(Kind.SETTINGS, http2.ACK, 0, b""))
            self._flush()
        elif kind == Kind.PING and not frame.flags & http2.ACK:
            self._write(http2.encode(Kind.PING, http2.ACK, 0, frame.payload))
        elif kind == Kind.RST_STREAM:
            raise CallError(f"UNAVAILABLE: the peer broke off, HTTP/2 error {frame.number()}")
        elif kind == Kind.GOAWAY and any(frame.payload[4:8]):
            message = frame.payload[8:].decode(errors="replace")
            raise CallError(f"UNAVAILABLE: the peer goes away: {message}")

    def _take_headers(self, frame: Frame) -> None:
        fields = self._headers.push(frame)
        if fields is None:
            return
        if fields.get(":status", "200") != "200":
            raise CallError(f"UNAVAILABLE: the peer answers HTTP status {fields[':status']}")
        if "grpc-status" in fields:
            self._end(_failure(fields["grpc-status"], unquote(fields.get("grpc-message", ""))))

    def _give_credit(self, num_bytes: int) -> None:
        self._num_read_bytes += num_bytes
        if self._num_read_bytes >= _CREDIT_BYTES:
            for stream in (0, _STREAM):
                self._write(http2.encode_number(Kind.WINDOW_UPDATE, stream, self._num_read_bytes))
            self._num_read_bytes = 0

    # --- ends ---------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._is_flushing = False
        frames = b"".join(self._sender.ready())
        if frames:
            self._write(frames)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _end(self, failure: Exception | None) -> None:
        """The first one counts; a waiter that was cancelled has cancelled `ended`."""
        if not self.ended.done():
            if failure is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(failure)
                self.ended.exception()  # nobody may be waiting
        if self._transport is not None and not self._transport.is_closing():
            self._write(http2.encode_number(Kind.RST_STREAM, _STREAM, http2.CANCEL))
            self._transport.close()


async def open_call(
    address: str,
    path: str,
    metadata: Sequence[tuple[str, str]],
    on_message: Callable[[bytes], None],
) -> BidiCall:
    """A call to host:port that is connected. path: "/package.Service/Method".

    Raises CallError when nobody listens there.
    """
    host, _, port = address.rpartition(":")
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", address),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *metadata,
    )
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, call = await loop.create_connection(
                lambda: BidiCall(fields, on_message), host.strip("[]"), int(port)
            )
    except (OSError, ValueError) as error:  # a time-out is an OSError
        raise CallError(f"UNAVAILABLE: no connection to {address}: {error}") from error
    return call


def _failure(status: str, message: str) -> CallError | None:
    if status == "0":
        return None
    name = _CODES.get(int(status), status) if status.isdigit() else "UNKNOWN"
    return CallError(f"{name}: {message}")


class _Messages:
    """The messages that DATA frames are parts of."""

    def __init__(self, on_message: Callable[[bytes], None]) -> None:
        self._on_message = on_message
        self._part = bytearray()

    def push(self, content: bytes) -> None:
        """Raises FrameError for a compressed message, which nobody asked for."""
        if not self._part and len(content) >= _PREFIX_BYTES and _size(content) == len(content):
            self._give(content)
            return
        self._part += content
        while len(self._part) >= _PREFIX_BYTES and (size := _size(self._part)) <= len(self._part):
            whole = bytes(self._part[:size])
            del self._part[:size]
            self._give(whole)

    def _give(self, whole: bytes) -> None:
        if whole[0]:
            raise FrameError("a message is compressed")
        self._on_message(whole[_PREFIX_BYTES:])


def _size(start: bytes | bytearray) -> int:
    """Of the message that begins there, its prefix included."""
    return _PREFIX_BYTES + int.from_bytes(start[1:_PREFIX_BYTES])


class _Headers:
    """Blocks of header fields, which may come in several frames."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._block = b""

    def push(self, frame: Frame) -> dict[str, str] | None:
        """The fields of a block that is whole. Raises FrameError, HPACKError."""
        self._block += frame.content
        if not frame.flags & http2.END_HEADERS:
            return None
        block, self._block = self._block, b""
        return {str(name): str(value) for name, value in self._decoder.decode(block)}


class _Sender:
    """What is to be sent, cut into frames as the peer's windows let it through."""

    def __init__(self) -> None:
        self._unsent = bytearray()
        self._first_window = http2.FIRST_WINDOW  # of a stream
        self._stream_window = http2.FIRST_WINDOW
        self._connection_window = http2.FIRST_WINDOW
        self._max_frame = http2.FIRST_MAX_FRAME

    def put(self, data: bytes) -> None:
        self._unsent += data

    def widen(self, stream: int, num_bytes: int) -> None:
        if stream:
            self._stream_window += num_bytes
        else:
            self._connection_window += num_bytes

    def settle(self, settings: Mapping[int, int]) -> None:
        """A window of the stream that was given before changes with its first size."""
        first = settings.get(Setting.INITIAL_WINDOW_SIZE, self._first_window)
        self._stream_window += first - self._first_window
        self._first_window = first
        self._max_frame = settings.get(Setting.MAX_FRAME_SIZE, self._max_frame)

    def ready(self) -> Iterator[bytes]:
        """The DATA frames that may go out."""
        while self._unsent:
            window = min(self._stream_window, self._connection_window, self._max_frame)
            if window <= 0:
                return
            part = bytes(self._unsent[:window])
            del self._unsent[:window]
            self._stream_window -= len(part)
            self._connection_window -= len(part)
            yield http2.encode(Kind.DATA, 0, _STREAM, part)
