"""The parts that all answers share, and what an endpoint's replies have to do."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from msgspec import UnsetType

from gateway.answer import Piece
from gateway.errors import ApiError

DONE = b"data: [DONE]\n\n"
_MARK = "\0text\0"  # that no id and no model's name holds


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Stages(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an answer was made, and how long its stages took; of several, of the last to end.

    kind: remote (two workers), local (one) or degraded (one, for lack of a pool). placed: from
    arrival to the last placement. exposed: what of the transfer prefill did not hide.
    """

    kind: str
    decode_worker: str
    attempts: int
    placed_ms: float
    queue_ms: float
    prefill_ms: float
    prefill_worker: str = ""
    transfer_ms: float = 0.0
    exposed_ms: float = 0.0
    transfer_failure: str = ""


class TextEvents:
    """Events that differ in one text alone: what stands around it is encoded once."""

    def __init__(self, event_with: Callable[[str], bytes]) -> None:
        """event_with: the whole event with a text."""
        mark = msgspec.json.encode(_MARK)
        self._before, found, self._after = event_with(_MARK).partition(mark)
        assert found, "the event has its text"

    def event(self, text: str) -> bytes:
        return self._before + msgspec.json.encode(text) + self._after


class Replies(Protocol):
    """The response of one request, in its endpoint's shape; events are whole SSE events.

    What is written does not depend on how the answer was cut into pieces.

    usage: goes with every event but the last; UNSET where no event of the stream has usage.
    """

    usage: Usage | None | UnsetType

    def opening(self, index: int) -> bytes:
        """What goes before a choice's first text."""
        ...

    def piece(self, piece: Piece) -> bytes: ...

    def ending(self, usage: Usage, stages: Stages | UnsetType) -> bytes:
        """What goes after the last choice's end: usage where asked for, and the stream's end."""
        ...

    def whole(self, choices: Sequence[Piece], usage: Usage) -> bytes:
        """The body of an answer that is not streamed; choices: each as one piece, by index."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """What goes last in a stream that fails."""
        ...


def failed_stream(error: ApiError) -> bytes:
    """OpenAI's: the error's body as an event."""
    return b"data: " + error.body + b"\n\n" + DONE


def event(body: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def named_event(name: str, body: msgspec.Struct) -> bytes:
    return b"event: " + name.encode() + b"\n" + event(body)
