"""POST /v1/responses: its body, and the chat that asks for the same."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from gateway.errors import invalid
from gateway.messages import ROLES
from gateway.openai import (
    ChatBody,
    ChatFields,
    ContentPart,
    Function,
    FunctionCall,
    FunctionName,
    Message,
    NamedChoice,
    NamedSchema,
    ResponseFormat,
    Tool,
    ToolCall,
    Whole,
)


class InputPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message, of a tool's output or of reasoning; only parts of text are served."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    image_url: Any = None
    file_id: Any = None
    file_data: Any = None
    file_url: Any = None
    filename: Any = None
    detail: Any = None


class InputItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message, a function_call, a function_call_output or reasoning, by its type.

    A client may send back an answer's items as it got them.
    """

    type: str = "message"
    role: str | None = None
    content: str | list[InputPart] | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    summary: list[InputPart] | None = None
    encrypted_content: str | None = None


class ResponseTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseToolChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    name: str | None = None


class TextForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """strict: accepted; the answer follows the schema in any case."""

    type: str
    name: str | None = None
    schema: Any = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """verbosity: accepted and without effect."""

    format: TextForm | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """effort: a variable of the chat template; summary: accepted, the reasoning is sent itself."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None  # padding against traffic analysis: never sent


class ResponsesBody(ChatFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/responses; the server keeps no state, so the input has the whole conversation."""

    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: Whole = UNSET
    stop: str | list[str] | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: str | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    truncation: str | None = None
    include: list[str] | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    top_logprobs: int | None = None
    max_tool_calls: int | None = None


# A ChatBody's fields by what they are called here, for errors.
FIELD_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
}


def chat_of_response(body: ResponsesBody) -> ChatBody:
    """Raises ApiError 400 for what needs state on the server, and for what no chat can say."""
    _refuse_unsupported(body)
    reasoning = body.reasoning or ReasoningOptions()
    variables = dict(body.chat_template_kwargs or {})
    if reasoning.effort is not None:
        variables.setdefault("reasoning_effort", reasoning.effort)
        variables.setdefault("enable_thinking", reasoning.effort != "none")
    fields = {**body.shared, "chat_template_kwargs": variables or None}
    return ChatBody(
        **fields,
        messages=_messages(body),
        max_completion_tokens=body.max_output_tokens,
        stop=body.stop,
        tools=[_tool(index, tool) for index, tool in enumerate(body.tools or ())] or None,
        tool_choice=_tool_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body.text),
        user=body.user,
        metadata=body.metadata,
    )


def _refuse_unsupported(body: ResponsesBody) -> None:
    for field, reason in _STATEFUL.items():
        value = getattr(body, field)
        if value is not None and value is not False:
            raise invalid(f"{field} is not supported: {reason}", field, "unsupported_field")
    if body.truncation not in (None, "disabled"):
        message = "truncation must be disabled: a conversation that is too long is refused"
        raise invalid(message, "truncation", "unsupported_field")
    if set(body.include or ()) - {"reasoning.encrypted_content"}:
        message = "include may only name reasoning.encrypted_content, which is always null here"
        raise invalid(message, "include", "unsupported_field")
    if body.top_logprobs:
        message = "top_logprobs is not supported here; use /v1/chat/completions"
        raise invalid(message, "top_logprobs", "unsupported_field")


_NO_STATE = "this server keeps no responses; send the whole conversation as input"
_STATEFUL = {
    "store": _NO_STATE,
    "previous_response_id": _NO_STATE,
    "conversation": _NO_STATE,
    "background": "this server keeps no responses; use stream",
    "prompt": "this server keeps no prompts; send input and instructions",
    "max_tool_calls": "it limits built-in tools, which this server has none of",
}


def _messages(body: ResponsesBody) -> list[Message]:
    messages: list[Message] = []
    if body.instructions is not None:
        messages.append(Message("system", body.instructions))
    if isinstance(body.input, str):
        return [*messages, Message("user", body.input)]
    if not body.input:
        raise invalid("input must have at least one item", "input")
    thoughts = ""  # they stand before what they led to
    for index, item in enumerate(body.input):
        if item.type == "reasoning":
            thoughts += _reasoning(item)
            continue
        message = _message(f"input[{index}]", item)
        if message.role == "assistant" and thoughts:
            message = msgspec.structs.replace(message, reasoning_content=thoughts)
        thoughts = ""
        _append(messages, message)
    return messages


def _append(messages: list[Message], message: Message) -> None:
    """Calls join the assistant's message before them: an answer is one message of a chat."""
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or message.role != "assistant":
        messages.append(message)
    elif message.tool_calls and not message.reasoning_content:
        calls = [*(last.tool_calls or ()), *message.tool_calls]
        messages[-1] = msgspec.structs.replace(last, tool_calls=calls)
    else:
        messages.append(message)


def _message(where: str, item: InputItem) -> Message:
    if item.type == "message":
        if item.role not in ROLES:
            reason = f"must be one of {', '.join(ROLES)}, is {item.role!r}"
            raise invalid(f"{where}.role {reason}", f"{where}.role")
        return Message(item.role, _content(f"{where}.content", item.content))
    if item.type == "function_call":
        if item.name is None or item.call_id is None:
            raise invalid(f"{where} must have a name and a call_id", where)
        call = ToolCall(FunctionCall(item.name, item.arguments), item.call_id, "function")
        return Message("assistant", tool_calls=[call])
    if item.type == "function_call_output":
        if item.call_id is None or item.output is None:
            raise invalid(f"{where} must have a call_id and an output", where)
        return Message("tool", _content(f"{where}.output", item.output), tool_call_id=item.call_id)
    types = "message, function_call, function_call_output or reasoning"
    raise invalid(f"{where}.type must be {types}, is {item.type!r}", f"{where}.type")


def _content(where: str, content: str | Sequence[InputPart] | None) -> str | list[ContentPart]:
    if content is None or isinstance(content, str):
        if content is None:
            raise invalid(f"{where} must be a string or a list of parts", where)
        return content
    parts: list[ContentPart] = []
    for part in content:
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in ("input_text", "output_text", "refusal") or text is None:
            reason = f"a part of type {part.type!r} is not supported, only input_text with a text"
            raise invalid(f"{where}: {reason}", where)
        parts.append(ContentPart("text", text))
    return parts


def _reasoning(item: InputItem) -> str:
    given = item.content if isinstance(item.content, list) and item.content else item.summary
    return "\n".join(part.text or "" for part in given or ())


def _tool(index: int, tool: ResponseTool) -> Tool:
    if tool.type != "function" or tool.name is None:
        where = f"tools[{index}].type"
        message = f"{where} must be function, with a name; built-in tools are not supported"
        raise invalid(message, where, "unsupported_field")
    return Tool("function", Function(tool.name, tool.description, tool.parameters, tool.strict))


def _tool_choice(choice: str | ResponseToolChoice | None) -> str | NamedChoice | None:
    if not isinstance(choice, ResponseToolChoice):
        return choice
    return NamedChoice(choice.type, FunctionName(choice.name or ""))


def _format(text: TextOptions | None) -> ResponseFormat | None:
    form = text.format if text else None
    if form is None:
        return None
    if form.type != "json_schema":
        return ResponseFormat(form.type)
    if form.schema is None:
        raise invalid("text.format.schema is required with the type json_schema", "text.format")
    named = NamedSchema(form.name or "", form.schema, form.description, form.strict)
    return ResponseFormat("json_schema", named)
