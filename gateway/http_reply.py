"""One HTTP response as it is sent: whole, or as server-sent events."""

from collections.abc import Callable, Iterable

from msgspec import UNSET, UnsetType
from starlette.types import Send

from gateway.errors import WAITING, ApiError
from gateway.replies import Stages, failed_stream
from gateway.request_headers import RequestHeaders

Headers = Iterable[tuple[bytes, bytes]]
ErrorBody = Callable[[ApiError], bytes]


def openai_error(error: ApiError) -> bytes:
    return error.body


_JSON = (b"content-type", b"application/json")
_EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class HttpReply:
    """NEW -> whole -> ENDED, or NEW -> events -> STREAMING -> events(last) -> ENDED.

    The status line goes out with the first events, so that a failure before them has its own
    status; fail() answers in whichever form is still possible.
    """

    def __init__(
        self,
        send: Send,
        request_id: str,
        error_body: ErrorBody = openai_error,
        write: Callable[[bytes], bool] | None = None,
    ) -> None:
        """error_body: of a failure before the first event. write: the short way for events of a
        stream that has begun; False where they have to go through `send`."""
        self._send = send
        self._write = write
        self._error_body = error_body
        self._request_id = (b"x-request-id", request_id.encode())
        self._shows_timing = False
        self._is_started = False
        self.headers: list[tuple[bytes, bytes]] = []  # that go with the answer, whatever it is
        self.failed_stream: ErrorBody = failed_stream  # what ends a stream that fails

    def answer_to(self, headers: RequestHeaders) -> None:
        """The client's own request id and traceparent go back to it."""
        self._shows_timing = headers.shows_timing
        if headers.request_id:
            self._request_id = (b"x-request-id", headers.request_id.encode())
        if headers.traceparent:
            self.headers.append((b"traceparent", headers.traceparent.encode()))

    def show(self, stages: Stages | UnsetType) -> None:
        """The stages of the answer go with it, where the client asks for them."""
        if self._shows_timing and stages is not UNSET:
            self.headers.append((b"server-timing", server_timing(stages)))

    def waited(self, text: str) -> None:
        """How long the request had no worker, and what it waited for; nothing for an empty text."""
        if text and not self._is_started:
            self.headers.append((WAITING, text.encode()))

    async def whole(self, status: int, body: bytes, headers: Headers = ()) -> None:
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, (_JSON, length, *headers))
        await self._send({"type": "http.response.body", "body": body})

    def write(self, events: bytes) -> bool:
        """Events in the middle of a stream, at once; False, and nothing done, where they have to
        wait or the stream has not begun."""
        return self._is_started and self._write is not None and self._write(events)

    async def events(self, events: bytes, *, last: bool = False) -> None:
        if not self._is_started:
            await self._start(200, _EVENT_STREAM)
        elif not last and self.write(events):
            return
        await self._send({"type": "http.response.body", "body": events, "more_body": not last})

    async def fail(self, error: ApiError) -> None:
        if self._is_started:
            await self.events(self.failed_stream(error), last=True)
            return
        headers = error.headers
        if error.status in (408, 413):  # the rest of the body is not read
            headers = [*headers, (b"connection", b"close")]
        await self.whole(error.status, self._error_body(error), headers)

    async def _start(self, status: int, headers: Headers) -> None:
        self._is_started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [self._request_id, *headers, *self.headers],
            }
        )


def server_timing(stages: Stages) -> bytes:
    """The W3C header Server-Timing."""
    named = (
        ("placed", stages.placed_ms),
        ("queue", stages.queue_ms),
        ("prefill", stages.prefill_ms),
        ("transfer", stages.transfer_ms),
        ("exposed", stages.exposed_ms),
    )
    return ", ".join([f"{name};dur={milliseconds:g}" for name, milliseconds in named]).encode()
