"""The answers of /v1/messages: one message of blocks, whole or as it comes about."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway.answer import Piece
from gateway.answer_deltas import AnswerDeltas
from gateway.anthropic_events import (
    AnswerBlock,
    AnswerMessage,
    BlockDelta,
    BlockStart,
    BlockStop,
    InputDelta,
    MessageDelta,
    MessagesEvent,
    MessageStart,
    MessageStop,
    MessageUsage,
    StopDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    messages_error,
    tag_of,
)
from gateway.chat_delta import Delta, ToolCallDelta
from gateway.errors import ApiError
from gateway.model_directory import ModelFiles
from gateway.prepare import Prepared
from gateway.replies import Stages, Usage, named_event


class MessagesReplies:
    """/v1/messages"""

    def __init__(
        self, request_id: str, created: int, model: ModelFiles, prepared: Prepared
    ) -> None:
        self.usage: Usage | None | UnsetType = UNSET
        self._id = request_id
        self._model = model.name
        self._num_prompt_tokens = prepared.num_prompt_tokens
        self._deltas = AnswerDeltas(prepared.style)
        self._blocks = _Blocks()
        self._stop = StopDelta("end_turn", None)

    def opening(self, index: int) -> bytes:
        """What the prefix cache held is known at the end: the last event's usage has it."""
        usage = MessageUsage(self._num_prompt_tokens, 0)
        return _event(MessageStart(AnswerMessage(self._id, self._model, [], usage)))

    def piece(self, piece: Piece) -> bytes:
        _, text, finish_reason, _, stop_string = piece
        deltas, reason = self._deltas.push(text, finish_reason)
        events = b"".join([self._blocks.take(delta) for delta in deltas])
        if reason is None:
            return events
        is_stopped = stop_string is not None and reason != "tool_calls"
        self._stop = StopDelta(
            "stop_sequence" if is_stopped else _REASONS.get(reason, "end_turn"),
            stop_string if is_stopped else None,
        )
        return events + self._blocks.close()

    def ending(self, usage: Usage, stages: Stages | UnsetType) -> bytes:
        return _event(MessageDelta(self._stop, _usage(usage))) + _event(MessageStop())

    def whole(self, choices: Sequence[Piece], usage: Usage) -> bytes:
        self.piece(choices[0])
        return msgspec.json.encode(
            AnswerMessage(
                self._id,
                self._model,
                self._blocks.blocks,
                _usage(usage),
                self._stop.stop_reason,
                self._stop.stop_sequence,
            )
        )

    def failure(self, error: ApiError) -> bytes:
        return _event(messages_error(error))


class _Blocks:
    """At most one block is open; another kind of news, or another call, closes it."""

    def __init__(self) -> None:
        self.blocks: list[AnswerBlock] = []  # those that are closed
        self._open: AnswerBlock | None = None
        self._text: list[str] = []

    def take(self, delta: Delta) -> bytes:
        if delta.reasoning_content:
            thought = delta.reasoning_content
            return self._opened(ThinkingBlock("")) + self._goes_on(thought, ThinkingDelta(thought))
        if delta.content:
            return self._opened(TextBlock("")) + self._goes_on(
                delta.content, TextDelta(delta.content)
            )
        return b"".join([self._take_call(call) for call in delta.tool_calls or ()])

    def close(self) -> bytes:
        if self._open is None:
            return b""
        events = _event(BlockStop(len(self.blocks)))
        self.blocks.append(_filled(self._open, "".join(self._text)))
        self._open, self._text = None, []
        return events

    def _take_call(self, call: ToolCallDelta) -> bytes:
        events = b""
        if call.id is not None and call.function is not None:
            block = ToolUseBlock(call.id, call.function.name or "")
            events = self.close() + self._opened(block)
        arguments = call.function.arguments if call.function else None
        return events + (self._goes_on(arguments, InputDelta(arguments)) if arguments else b"")

    def _opened(self, block: AnswerBlock) -> bytes:
        if type(self._open) is type(block):
            return b""
        events = self.close()
        self._open = block
        return events + _event(BlockStart(len(self.blocks), block))

    def _goes_on(self, text: str, delta: TextDelta | ThinkingDelta | InputDelta) -> bytes:
        self._text.append(text)
        return _event(BlockDelta(len(self.blocks), delta))


def _filled(block: AnswerBlock, text: str) -> AnswerBlock:
    if isinstance(block, ToolUseBlock):
        return msgspec.structs.replace(block, input=_arguments(text))
    return TextBlock(text) if isinstance(block, TextBlock) else ThinkingBlock(text)


def _arguments(text: str) -> Any:
    """A call that max_tokens cut off has no arguments that could be read."""
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}


def _usage(usage: Usage) -> MessageUsage:
    num_cached = usage.prompt_tokens_details.cached_tokens
    return MessageUsage(usage.prompt_tokens - num_cached, usage.completion_tokens, num_cached)


def _event(event: MessagesEvent) -> bytes:
    return named_event(tag_of(event), event)


_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
