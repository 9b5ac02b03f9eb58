"""OpenAI's response bodies: whole answers and the chunks of streamed ones."""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import UNSET, UnsetType

DONE = b"data: [DONE]\n\n"


class TokenDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: TokenDetails


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: Delta
    logprobs: None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    id: str
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None | UnsetType = UNSET


class AnswerMessage(msgspec.Struct, frozen=True):
    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: AnswerMessage
    finish_reason: str
    logprobs: None = None


class ChatReply(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    finish_reason: str | None
    logprobs: None = None


class TextReply(msgspec.Struct, frozen=True, tag_field="object", tag="text_completion"):
    """An answer of /v1/completions, and also each chunk of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None | UnsetType = UNSET


Choices = Sequence[tuple[str, str]]  # each choice's text and finish reason, by index


class Replies(Protocol):
    """The response of one request, in its endpoint's shape; events are whole SSE events."""

    def opening(self, index: int) -> bytes:
        """What goes before a choice's first text."""
        ...

    def piece(self, index: int, text: str, finish_reason: str | None) -> bytes: ...

    def ending(self, usage: Usage) -> bytes:
        """What goes after the last choice's end: the usage, where it was asked for."""
        ...

    def whole(self, choices: Choices, usage: Usage) -> bytes:
        """The body of an answer that is not streamed."""
        ...


class ChatReplies:
    """/v1/chat/completions"""

    def __init__(self, request_id: str, created: int, model: str, include_usage: bool) -> None:
        self._id = request_id
        self._created = created
        self._model = model
        self._include_usage = include_usage

    def opening(self, index: int) -> bytes:
        return self._event((ChunkChoice(index, Delta("assistant", "")),))

    def piece(self, index: int, text: str, finish_reason: str | None) -> bytes:
        event = self._event((ChunkChoice(index, Delta(content=text)),)) if text else b""
        if finish_reason is None:
            return event
        return event + self._event((ChunkChoice(index, Delta(), finish_reason=finish_reason),))

    def ending(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return b""
        return _event(Chunk(self._id, self._created, self._model, (), usage=usage))

    def whole(self, choices: Choices, usage: Usage) -> bytes:
        listed = [
            ChatChoice(index, AnswerMessage(text), finish_reason)
            for index, (text, finish_reason) in enumerate(choices)
        ]
        return msgspec.json.encode(ChatReply(self._id, self._created, self._model, listed, usage))

    def _event(self, choices: tuple[ChunkChoice, ...]) -> bytes:
        no_usage = None if self._include_usage else UNSET
        return _event(Chunk(self._id, self._created, self._model, choices, usage=no_usage))


class TextReplies:
    """/v1/completions"""

    def __init__(self, request_id: str, created: int, model: str, include_usage: bool) -> None:
        self._id = request_id
        self._created = created
        self._model = model
        self._include_usage = include_usage

    def opening(self, index: int) -> bytes:
        return b""

    def piece(self, index: int, text: str, finish_reason: str | None) -> bytes:
        if not text and finish_reason is None:
            return b""
        no_usage = None if self._include_usage else UNSET
        return _event(self._reply([TextChoice(index, text, finish_reason)], no_usage))

    def ending(self, usage: Usage) -> bytes:
        return _event(self._reply([], usage)) if self._include_usage else b""

    def whole(self, choices: Choices, usage: Usage) -> bytes:
        listed = [
            TextChoice(index, text, finish_reason)
            for index, (text, finish_reason) in enumerate(choices)
        ]
        return msgspec.json.encode(self._reply(listed, usage))

    def _reply(self, choices: list[TextChoice], usage: Usage | None | UnsetType) -> TextReply:
        return TextReply(self._id, self._created, self._model, choices, usage=usage)


def usage_of(num_prompt_tokens: int, num_output_tokens: int, num_cached_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_output_tokens,
        total_tokens=num_prompt_tokens + num_output_tokens,
        prompt_tokens_details=TokenDetails(num_cached_tokens),
    )


def error_event(error_body: bytes) -> bytes:
    return b"data: " + error_body + b"\n\n"


def _event(body: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
