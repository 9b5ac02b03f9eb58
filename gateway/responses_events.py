"""The response object of /v1/responses, its items, and the events of its stream."""

from typing import Any, Literal

import msgspec

from gateway.responses_body import ReasoningOptions, ResponseTool, ResponseToolChoice, TextForm


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[()] = ()


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class MessageItem(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    id: str
    status: str
    content: tuple[OutputText, ...]
    role: Literal["assistant"] = "assistant"


class ReasoningItem(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    id: str
    status: str
    content: tuple[ReasoningText, ...]
    summary: tuple[()] = ()
    encrypted_content: None = None


class CallItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: str


Part = OutputText | ReasoningText
Item = MessageItem | ReasoningItem | CallItem


class InputDetails(msgspec.Struct, frozen=True):
    """What is written to a prefix cache costs nobody anything: always 0."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """Reasoning is not counted apart: always 0."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True):
    """code: one of OpenAI's: server_error, rate_limit_exceeded or invalid_prompt."""

    code: str
    message: str


class Incomplete(msgspec.Struct, frozen=True):
    reason: str


class TextConfig(msgspec.Struct, frozen=True):
    format: TextForm


class Response(msgspec.Struct, frozen=True, tag_field="object", tag="response", kw_only=True):
    """status: in_progress -> completed, incomplete (max_output_tokens) or failed."""

    id: str
    created_at: int
    status: str
    model: str
    output: tuple[Item, ...]
    error: ResponseError | None = None
    incomplete_details: Incomplete | None = None
    usage: ResponseUsage | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    reasoning: ReasoningOptions = ReasoningOptions()
    background: bool = False
    store: bool = False
    temperature: float = 1.0
    text: TextConfig = TextConfig(TextForm("text"))
    tool_choice: str | ResponseToolChoice = "auto"
    tools: list[ResponseTool] = []
    top_p: float = 1.0
    truncation: str = "disabled"
    user: str | None = None


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    sequence_number: int


class ResponseCreated(_Event, frozen=True, tag_field="type", tag="response.created"):
    response: Response


class ResponseInProgress(_Event, frozen=True, tag_field="type", tag="response.in_progress"):
    response: Response


class ResponseCompleted(_Event, frozen=True, tag_field="type", tag="response.completed"):
    response: Response


class ResponseIncomplete(_Event, frozen=True, tag_field="type", tag="response.incomplete"):
    response: Response


class ResponseFailed(_Event, frozen=True, tag_field="type", tag="response.failed"):
    response: Response


class ItemAdded(_Event, frozen=True, tag_field="type", tag="response.output_item.added"):
    output_index: int
    item: Item


class ItemDone(_Event, frozen=True, tag_field="type", tag="response.output_item.done"):
    output_index: int
    item: Item


class _ItemEvent(_Event, frozen=True, kw_only=True):
    item_id: str
    output_index: int


class PartAdded(_ItemEvent, frozen=True, tag_field="type", tag="response.content_part.added"):
    part: Part
    content_index: int = 0


class PartDone(_ItemEvent, frozen=True, tag_field="type", tag="response.content_part.done"):
    part: Part
    content_index: int = 0


class TextDelta(_ItemEvent, frozen=True, tag_field="type", tag="response.output_text.delta"):
    delta: str
    content_index: int = 0
    logprobs: tuple[()] = ()


class TextDone(_ItemEvent, frozen=True, tag_field="type", tag="response.output_text.done"):
    text: str
    content_index: int = 0
    logprobs: tuple[()] = ()


class ThoughtDelta(_ItemEvent, frozen=True, tag_field="type", tag="response.reasoning_text.delta"):
    delta: str
    content_index: int = 0


class ThoughtDone(_ItemEvent, frozen=True, tag_field="type", tag="response.reasoning_text.done"):
    text: str
    content_index: int = 0


class ArgumentsDelta(
    _ItemEvent, frozen=True, tag_field="type", tag="response.function_call_arguments.delta"
):
    delta: str


class ArgumentsDone(
    _ItemEvent, frozen=True, tag_field="type", tag="response.function_call_arguments.done"
):
    name: str
    arguments: str


class ErrorEvent(_Event, frozen=True, tag_field="type", tag="error"):
    code: str | None
    message: str
    param: str | None


ResponseEvent = (
    ResponseCreated
    | ResponseInProgress
    | ResponseCompleted
    | ResponseIncomplete
    | ResponseFailed
    | ItemAdded
    | ItemDone
    | PartAdded
    | PartDone
    | TextDelta
    | TextDone
    | ThoughtDelta
    | ThoughtDone
    | ArgumentsDelta
    | ArgumentsDone
    | ErrorEvent
)


def tag_of(event: Any) -> str:
    """An event's name."""
    return str(type(event).__struct_config__.tag)
