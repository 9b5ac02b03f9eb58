"""Reading of streams: any cut of the bytes, every way an answer can end."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.replies import Stages
from loadtest.answer_stream import AnswerStream
from loadtest.record import StageTimes

SSE = {b"content-type": b"text/event-stream; charset=utf-8"}
JSON = {b"content-type": b"application/json"}


def event(payload: object, end: str = "\n\n") -> bytes:
    return f"data: {json.dumps(payload)}{end}".encode()


def chat(content: str | None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {"choices": [{"index": 0, "delta": {**delta, **more}, "finish_reason": reason}]}


def text(content: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": content, "finish_reason": reason}], "usage": None}


USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}
DONE = b"data: [DONE]\n\n"
WHOLE = b"".join(
    (event(chat("", role="assistant")), event(chat("Grün ")), event(chat("ist")), b": ping\n\n",
     event(chat(" es")), event(chat(None, "stop")), event(USAGE), DONE)
)  # fmt: skip


def streamed(*parts: tuple[bytes, float], headers: dict[bytes, bytes] = SSE) -> AnswerStream:
    stream = AnswerStream(keeps_text=True)
    stream.head(200, headers)
    for data, now in parts:
        stream.body(data, now)
    stream.finish("", parts[-1][1] if parts else 0.0)
    return stream


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12).map(sorted), st.booleans())
def test_an_answer_reads_the_same_however_its_bytes_are_cut(cuts: list[int], crlf: bool) -> None:
    data = WHOLE.replace(b"\n", b"\r\n") if crlf else WHOLE
    edges = [0, *(cut for cut in cuts if cut <= len(data)), len(data)]
    parts = [(data[a:b], 1.0) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    stream = streamed(*parts)
    assert stream.error == ""
    assert "".join(stream.text) == "Grün ist es"
    assert (stream.num_input, stream.num_output, stream.cached) == (9, 5, 4)
    assert (stream.num_events, stream.finish_reason) == (3, "stop")


def test_the_first_text_and_the_gaps_are_timed() -> None:
    stream = streamed(
        (event(text("a")), 2.0),
        (event(text("b")), 2.5),
        (event(text("c")) + event(text("d", "length")), 4.0),
        (DONE, 9.0),
    )
    assert stream.first == 2.0
    assert stream.gaps.tolist() == [0.5, 1.5, 0.0]


def test_an_opening_without_text_is_no_first_token() -> None:
    opening = event(chat("", role="assistant"))
    stream = streamed((opening, 1.0), (event(chat("hi", "stop")), 3.0))
    assert stream.first == 3.0


def test_reasoning_and_tool_calls_are_answer_too() -> None:
    thought = event({"choices": [{"delta": {"reasoning_content": "hm"}}]})
    call = event({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]})
    stream = streamed((thought, 1.0), (call, 2.0), (event(chat(None, "tool_calls")), 3.0))
    assert (stream.first, stream.num_events, stream.error) == (1.0, 2, "")


def test_an_answer_without_any_text_has_its_end_as_its_first_token() -> None:
    stream = streamed((event(chat(None, "stop")), 4.0), (DONE, 5.0))
    assert (stream.first, stream.num_events, stream.error) == (4.0, 1, "")


@pytest.mark.parametrize(
    ("tail", "error"),
    [
        (b"", "without a finish reason"),
        (event({"error": {"message": "worker lost", "code": 503}}) + DONE, "event: worker lost"),
        (event({"error": "plain"}), "event: plain"),
        (b"data: {broken\n\n", "cannot be read"),
        (b'data: {"choices": 3}\n\n', "cannot be read"),
    ],
)
def test_a_stream_that_does_not_end_well_is_a_failure(tail: bytes, error: str) -> None:
    assert error in streamed((event(text("a")) + tail, 1.0)).error


def test_a_broken_connection_after_the_end_is_a_success() -> None:
    stream = AnswerStream()
    stream.head(200, SSE)
    stream.body(event(text("a", "length")), 1.0)
    stream.finish("the server closed the connection", 2.0)
    assert stream.error == ""


def test_a_broken_connection_before_the_end_says_why() -> None:
    stream = AnswerStream()
    stream.head(200, SSE)
    stream.body(event(text("a")), 1.0)
    stream.finish("connection lost: reset", 2.0)
    assert stream.error == "connection lost: reset"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "too long", "type": "x"}}', "HTTP 400: too long"),
        (b'{"error": "no"}', "HTTP 400: no"),
        (b"<html>bad</html>", "HTTP 400: <html>bad</html>"),
        (b"", "HTTP 400: "),
        (b"[1]", "HTTP 400: [1]"),
        (b"\xff" * 9000, "HTTP 400: \ufffd"),
    ],
)
def test_a_refusal_is_an_error_with_its_message(body: bytes, message: str) -> None:
    stream = AnswerStream()
    stream.head(400, JSON)
    stream.body(body, 1.0)
    stream.finish("", 1.0)
    assert stream.error.startswith(message)
    assert len(stream.error) < 400


def test_a_server_that_does_not_stream_is_read_whole() -> None:
    body = json.dumps(
        {
            "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        }
    ).encode()
    stream = streamed((body[:20], 1.0), (body[20:], 2.0), headers=JSON)
    assert (stream.error, stream.first, stream.num_input) == ("", 2.0, 3)


def test_workers_come_from_headers_and_stages_from_the_last_chunk() -> None:
    headers = {**SSE, b"x-baton-prefill-worker": b"p1", b"x-baton-decode-worker": b"d2"}
    stream = streamed((event(text("a", "length")), 1.0), headers=headers)
    assert (stream.baton.prefill_worker, stream.baton.decode_worker) == ("p1", "d2")
    told = {"kind": "remote", "prefill_worker": "p1", "decode_worker": "d2", "queue_ms": 250.0}
    last = event({**USAGE, "baton": {**told, "transfer_ms": 5.0}})
    stream = streamed((event(text("a", "length")), 1.0), (last, 2.0), headers=headers)
    assert stream.baton == StageTimes("remote", "p1", "d2", 0.25, None, 0.005, 0.0)


@pytest.mark.parametrize(("kind", "failure"), [("local", ""), ("remote", "peer_lost")])
def test_what_was_not_pulled_has_no_transfers_time(kind: str, failure: str) -> None:
    told = {"kind": kind, "decode_worker": "d", "transfer_failure": failure, "transfer_ms": 1.0}
    stream = streamed((event(text("a", "length")), 1.0), (event({**USAGE, "baton": told}), 2.0))
    assert (stream.baton.transfer_s, stream.baton.exposed_s) == (None, None)


def test_the_stages_are_read_as_the_gateway_writes_them() -> None:
    """Its schema, encoded: units and names are one side's to say."""
    told = Stages("remote", "d2", 1, 0.5, queue_ms=2.0, prefill_ms=30.0, prefill_worker="p1",
                  transfer_ms=5.0, exposed_ms=0.5)  # fmt: skip
    last = b"data: " + msgspec.json.encode({**USAGE, "baton": told}) + b"\n\n"
    stream = streamed((event(text("a", "length")), 1.0), (last, 2.0))
    assert stream.baton == StageTimes("remote", "p1", "d2", 0.002, 0.03, 0.005, 0.0005)


@given(st.binary(max_size=300), st.sampled_from([200, 404, 500]), st.booleans())
def test_no_bytes_raise(data: bytes, status: int, is_stream: bool) -> None:
    stream = AnswerStream()
    stream.head(status, SSE if is_stream else JSON)
    stream.body(data, 1.0)
    stream.finish("", 2.0)
    assert stream.error or status == 200
