"""The message of /v1/messages, its blocks, the events of its stream, and its errors."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gateway.errors import ApiError


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str
    citations: None = None


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """signature: always empty, the server keeps no keys to sign with."""

    thinking: str
    signature: str = ""


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Any = {}


AnswerBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessageUsage(msgspec.Struct, frozen=True):
    """input_tokens: those that were not found in a prefix cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class AnswerMessage(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """stop_reason: end_turn, max_tokens, stop_sequence or tool_use."""

    id: str
    model: str
    content: list[AnswerBlock]
    usage: MessageUsage
    stop_reason: str | None = None
    stop_sequence: str | None = None
    role: Literal["assistant"] = "assistant"


class MessageStart(msgspec.Struct, frozen=True, tag_field="type", tag="message_start"):
    message: AnswerMessage


class BlockStart(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: AnswerBlock


class TextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class InputDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


class BlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | InputDelta


class BlockStop(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    index: int


class StopDelta(msgspec.Struct, frozen=True):
    stop_reason: str
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, tag_field="type", tag="message_delta"):
    delta: StopDelta
    usage: MessageUsage


class MessageStop(msgspec.Struct, frozen=True, tag_field="type", tag="message_stop"):
    pass


class ErrorKind(msgspec.Struct, frozen=True):
    type: str
    message: str
    param: str | None | UnsetType = UNSET
    code: str | None | UnsetType = UNSET


class MessagesError(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    error: ErrorKind


MessagesEvent = (
    MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | MessagesError
)


def tag_of(event: MessagesEvent) -> str:
    """An event's name."""
    return str(type(event).__struct_config__.tag)


def messages_error(error: ApiError) -> MessagesError:
    """Anthropic's shape; code and param say what OpenAI's would."""
    kind = _KINDS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    code, param = error.code or UNSET, error.param or UNSET
    return MessagesError(ErrorKind(kind, error.message, param, code))


def messages_error_body(error: ApiError) -> bytes:
    return msgspec.json.encode(messages_error(error))


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
