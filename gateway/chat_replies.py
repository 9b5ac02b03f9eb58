"""The response bodies of /v1/chat/completions: whole answers and the chunks of streamed ones."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.answer import Piece
from gateway.answer_deltas import AnswerDeltas, content_of, reasoning_of
from gateway.chat_delta import Delta, FunctionDelta, ToolCallDelta
from gateway.errors import ApiError
from gateway.model_directory import ModelFiles
from gateway.prepare import Prepared
from gateway.replies import DONE, Stages, TextEvents, Usage, event, failed_stream
from gateway.token_details import ChatLogprobs, LogprobWriter, TokenDetails


class ChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | UnsetType = UNSET


class Chunk(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    id: str
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None | UnsetType = UNSET
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET
    baton: Stages | UnsetType = UNSET


class AnswerMessage(msgspec.Struct, frozen=True):
    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: AnswerMessage
    finish_reason: str
    logprobs: ChatLogprobs | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatReply(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET


class ChatReplies:
    """/v1/chat/completions"""

    def __init__(
        self, request_id: str, created: int, model: ModelFiles, prepared: Prepared
    ) -> None:
        self._id = request_id
        self._created = created
        self._model = model.name
        self._prepared = prepared
        self.usage: Usage | None | UnsetType = None if prepared.include_usage else UNSET
        self._logprobs = LogprobWriter(model.detokenizers)
        self._answers: dict[int, AnswerDeltas] = {}
        self._is_plain = prepared.style is None  # text is content, whatever came before it
        self._plain_events: dict[int, TextEvents] = {}

    def opening(self, index: int) -> bytes:
        return self._event(ChunkChoice(index, Delta("assistant", "")), self._prompt_ids)

    def piece(self, piece: Piece) -> bytes:
        """The details go with the first event; the finish reason has the last for itself."""
        index, text, finish_reason, details, _ = piece
        if self._is_plain and finish_reason is None and details is None and not self.usage:
            return self._text(index, text) if text else b""
        deltas, finish_reason = self._deltas(index).push(text, finish_reason)
        events = self._events(index, deltas, details)
        if finish_reason is None:
            return events
        return events + self._event(ChunkChoice(index, Delta(), finish_reason=finish_reason))

    def _text(self, index: int, text: str) -> bytes:
        events = self._plain_events.get(index)
        if events is None:
            events = TextEvents(lambda text: self._event(ChunkChoice(index, Delta(content=text))))
            self._plain_events[index] = events
        return events.event(text)

    def ending(self, usage: Usage, stages: Stages | UnsetType) -> bytes:
        if not self._prepared.include_usage:
            return DONE
        return event(Chunk(self._id, self._created, self._model, (), usage, baton=stages)) + DONE

    def failure(self, error: ApiError) -> bytes:
        return failed_stream(error)

    def whole(self, choices: Sequence[Piece], usage: Usage) -> bytes:
        listed = [self._choice(piece) for piece in choices]
        return msgspec.json.encode(
            ChatReply(self._id, self._created, self._model, listed, usage, self._prompt_ids)
        )

    @property
    def _prompt_ids(self) -> tuple[int, ...] | UnsetType:
        prepared = self._prepared
        return prepared.requests[0].prompt_tokens if prepared.return_token_ids else UNSET

    def _choice(self, piece: Piece) -> ChatChoice:
        index, text, finish_reason, details, _ = piece
        logprobs, token_ids = self._shown(details)
        deltas, reason = self._deltas(index).push(text, finish_reason)
        return ChatChoice(index, _joined(deltas), reason or "stop", logprobs, token_ids)

    def _deltas(self, index: int) -> AnswerDeltas:
        answer = self._answers.get(index)
        if answer is None:
            answer = self._answers[index] = AnswerDeltas(self._prepared.style)
        return answer

    def _events(self, index: int, deltas: Sequence[Delta], details: TokenDetails | None) -> bytes:
        if details is None:
            return b"".join([self._event(ChunkChoice(index, delta)) for delta in deltas])
        first, *others = deltas or [Delta()]
        logprobs, token_ids = self._shown(details)
        choice = ChunkChoice(index, first, logprobs, token_ids=token_ids)
        return self._event(choice) + self._events(index, others, None)

    def _shown(
        self, details: TokenDetails | None
    ) -> tuple[ChatLogprobs | None, list[int] | UnsetType]:
        if details is None:
            return None, UNSET
        prepared = self._prepared
        logprobs = self._logprobs.chat(details) if prepared.logprobs else None
        return logprobs, details.tokens if prepared.return_token_ids else UNSET

    def _event(self, choice: ChunkChoice, prompt_ids: tuple[int, ...] | UnsetType = UNSET) -> bytes:
        return event(Chunk(self._id, self._created, self._model, (choice,), self.usage, prompt_ids))


def _joined(deltas: Sequence[Delta]) -> AnswerMessage:
    """The whole message that the deltas add up to."""
    content, reasoning = content_of(deltas), reasoning_of(deltas)
    begun: dict[int, ToolCallDelta] = {}
    arguments: dict[int, list[str]] = {}
    for call in (call for delta in deltas for call in delta.tool_calls or ()):
        index, function = call.index or 0, call.function or FunctionDelta()
        begun.setdefault(index, call)
        arguments.setdefault(index, []).append(function.arguments or "")
    calls = [
        ToolCallDelta(None, call.id, call.type, FunctionDelta(_name(call), "".join(pieces)))
        for call, pieces in zip(begun.values(), arguments.values(), strict=True)
    ]
    return AnswerMessage(
        content=content if content or not calls else None,
        reasoning_content=reasoning or UNSET,
        tool_calls=calls or UNSET,
    )


def _name(call: ToolCallDelta) -> str | None:
    return call.function.name if call.function else None
