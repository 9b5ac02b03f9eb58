"""One answer as it arrives: server-sent events to text, times and the server's own counts."""

from array import array
from typing import Any

import msgspec

from loadtest.record import StageTimes

_ERROR_LIMIT_BYTES = 4096  # of an error's body, kept for its message


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _TokenDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _TokenDetails | None = None


class _Stages(msgspec.Struct):
    """What Baton's gateway says beside the usage; of a transfer that took no time, nothing."""

    kind: str = ""
    prefill_worker: str = ""
    decode_worker: str = ""
    queue_ms: float | None = None
    prefill_ms: float | None = None
    transfer_ms: float = 0.0
    exposed_ms: float = 0.0
    transfer_failure: str = ""

    def times(self) -> StageTimes:
        is_pulled = self.kind == "remote" and not self.transfer_failure
        return StageTimes(
            self.kind,
            self.prefill_worker,
            self.decode_worker,
            None if self.queue_ms is None else self.queue_ms / 1e3,
            None if self.prefill_ms is None else self.prefill_ms / 1e3,
            self.transfer_ms / 1e3 if is_pulled else None,
            self.exposed_ms / 1e3 if is_pulled else None,
        )


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None
    baton: _Stages | None = None


_NO_PART = _Delta()
_decode = msgspec.json.Decoder(_Chunk).decode


class AnswerStream:
    """Takes a response's status, headers and body. Times are those of the caller's clock.

    HEAD -> BODY -> finish(). A success is a 200 whose answer has a finish reason or [DONE], and no
    error event: a stream that just stops is a failure.
    """

    __slots__ = (
        "_has_end", "_is_stream", "_keeps_text", "_last", "_rest",
        "baton", "cached", "error", "finish_reason", "first", "gaps", "num_input", "num_output",
        "status", "text",
    )  # fmt: skip

    def __init__(self, keeps_text: bool = False) -> None:
        self._keeps_text = keeps_text
        self._is_stream = False
        self._has_end = False
        self._rest = b""
        self._last = 0.0
        self.status = 0
        self.first: float | None = None
        self.gaps = array("f")
        self.text: list[str] = []
        self.error = ""
        self.finish_reason = ""
        self.num_input = 0
        self.num_output = 0
        self.cached = 0
        self.baton = StageTimes()

    @property
    def num_events(self) -> int:
        return len(self.gaps) + (self.first is not None)

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """headers: names in lower case."""
        self.status = status
        self._is_stream = status == 200 and b"event-stream" in headers.get(b"content-type", b"")
        prefill = headers.get(b"x-baton-prefill-worker")
        decode = headers.get(b"x-baton-decode-worker")
        if prefill or decode:
            self.baton = StageTimes(
                prefill_worker=(prefill or b"").decode("latin-1"),
                decode_worker=(decode or b"").decode("latin-1"),
            )

    def body(self, data: bytes, now: float) -> None:
        data = self._rest + data if self._rest else data
        if not self._is_stream:
            limit = _ERROR_LIMIT_BYTES if self.status != 200 else len(data)
            self._rest = data[:limit]
            return
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        for event in events:
            self._event(event, now)

    def finish(self, failure: str, now: float) -> None:
        """The response is over; failure: why it broke off, else empty."""
        if self.status and not self._is_stream:
            self._finish_whole(now)
        if self.error or (self._has_end and self.status == 200):
            return
        if failure:
            self.error = failure
        elif self.status == 200:
            self.error = "the stream stopped without a finish reason"

    def _finish_whole(self, now: float) -> None:
        """An error, or a server that does not stream."""
        if self.status != 200:
            self.error = f"HTTP {self.status}: {_message(self._rest)}"
        elif self._rest:
            self._payload(self._rest, now)

    def _event(self, event: bytes, now: float) -> None:
        if event.startswith(b"data:") and b"\n" not in event:
            self._payload(event[5:], now)
            return
        lines = event.split(b"\n")
        payload = b"\n".join(line[5:] for line in lines if line.startswith(b"data:"))
        if payload:
            self._payload(payload, now)

    def _payload(self, payload: bytes, now: float) -> None:
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            if payload.strip() == b"[DONE]":
                self._has_end = True
            else:
                self.error = self.error or f"an event cannot be read: {problem}"
            return
        if chunk.error is not None:
            self.error = self.error or f"error event: {_message(payload)}"
        for choice in chunk.choices:
            self._choice(choice, now)
        if chunk.usage is not None:
            self._usage(chunk.usage)
        if chunk.baton is not None:
            self.baton = chunk.baton.times()

    def _choice(self, choice: _Choice, now: float) -> None:
        part = choice.delta or choice.message or _NO_PART
        text = choice.text or part.content or part.reasoning_content or part.reasoning
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason
            self._has_end = True
        if not text and not part.tool_calls:
            if choice.finish_reason is not None and self.first is None:
                self.first = self._last = now
            return
        if self.first is None:
            self.first = now
        else:
            self.gaps.append(now - self._last)
        self._last = now
        if self._keeps_text and text:
            self.text.append(text)

    def _usage(self, usage: _Usage) -> None:
        self.num_input = usage.prompt_tokens
        self.num_output = usage.completion_tokens
        details = usage.prompt_tokens_details
        if details is not None and details.cached_tokens is not None:
            self.cached = details.cached_tokens


def _message(body: bytes) -> str:
    """The message of OpenAI's error object, else the body's start."""
    try:
        error = msgspec.json.decode(body)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError):
        message = body[:200].decode(errors="replace")
    return str(message)[:300]
