"""The response bodies of /v1/chat/completions: whole answers and the chunks of streamed ones."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.answer import Piece
from gateway.chat_delta import Delta, FunctionDelta, ToolCallDelta
from gateway.message_parser import MessageParser
from gateway.model_directory import ModelFiles
from gateway.prepare import Prepared
from gateway.replies import Choices, Stages, Usage, event
from gateway.token_details import ChatLogprobs, LogprobWriter, TokenDetails
from runtime.lifecycle import new_id


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
        self._parsers: dict[int, MessageParser] = {}

    def opening(self, index: int) -> bytes:
        return self._event(ChunkChoice(index, Delta("assistant", "")), self._prompt_ids)

    def piece(self, piece: Piece) -> bytes:
        """The details go with the first event; the finish reason has the last for itself."""
        index, text, finish_reason, details = piece
        deltas = [Delta(content=text)] if text else []
        if self._prepared.style is not None:
            deltas, finish_reason = self._parsed(index, text, finish_reason)
        events = self._events(index, deltas, details)
        if finish_reason is None:
            return events
        return events + self._event(ChunkChoice(index, Delta(), finish_reason=finish_reason))

    def ending(self, usage: Usage, stages: Stages | UnsetType) -> bytes:
        if not self._prepared.include_usage:
            return b""
        return event(Chunk(self._id, self._created, self._model, (), usage, baton=stages))

    def whole(self, choices: Choices, usage: Usage) -> bytes:
        listed = [
            self._choice(index, text, finish_reason, details)
            for index, (text, finish_reason, details) in enumerate(choices)
        ]
        return msgspec.json.encode(
            ChatReply(self._id, self._created, self._model, listed, usage, self._prompt_ids)
        )

    @property
    def _prompt_ids(self) -> tuple[int, ...] | UnsetType:
        prepared = self._prepared
        return prepared.requests[0].prompt_tokens if prepared.return_token_ids else UNSET

    def _choice(
        self, index: int, text: str, finish_reason: str, details: TokenDetails | None
    ) -> ChatChoice:
        logprobs, token_ids = self._shown(details)
        message, reason = AnswerMessage(text), finish_reason
        if self._prepared.style is not None:
            deltas, parsed_reason = self._parsed(index, text, finish_reason)
            message, reason = _joined(deltas), parsed_reason or finish_reason
        return ChatChoice(index, message, reason, logprobs, token_ids)

    def _parsed(
        self, index: int, text: str, finish_reason: str | None
    ) -> tuple[list[Delta], str | None]:
        """The text as deltas; an answer that ends with a call has a finish reason of its own."""
        parser = self._parsers.get(index)
        if parser is None:
            assert self._prepared.style is not None
            parser = MessageParser(self._prepared.style, lambda: new_id("call"))
            self._parsers[index] = parser
        deltas = parser.push(text) if text else []
        if finish_reason is not None:
            deltas += parser.finish()
            if finish_reason == "stop" and parser.num_calls:
                finish_reason = "tool_calls"
        return deltas, finish_reason

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
    content = "".join([delta.content or "" for delta in deltas])
    reasoning = "".join([delta.reasoning_content or "" for delta in deltas])
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
