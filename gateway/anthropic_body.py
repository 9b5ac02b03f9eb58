"""POST /v1/messages: Anthropic's body, and the chat that asks for the same."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.errors import invalid
from gateway.openai import (
    ChatBody,
    ChatFields,
    ContentPart,
    Function,
    FunctionCall,
    FunctionName,
    Message,
    NamedChoice,
    Tool,
    ToolCall,
)


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message, by its type: text, tool_use, tool_result or thinking.

    A client may send back an answer's blocks as it got them. cache_control: accepted; whatever
    prefix is there already is used.
    """

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    cache_control: Any = None
    citations: Any = None
    caller: Any = None
    toolset_name: Any = None
    source: Any = None
    title: Any = None
    context: Any = None


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: str
    content: str | list[Block]


class MessagesTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    cache_control: Any = None
    strict: bool | None = None


class MessagesToolChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """budget_tokens: accepted; max_tokens limits thinking and answer together."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class MessagesMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user_id: str | None = None


class PromptBody(ChatFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of a body makes the prompt."""

    messages: list[Turn]
    system: str | list[Block] | None = None
    tools: list[MessagesTool] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    cache_control: Any = None


class CountTokensBody(PromptBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/messages/count_tokens"""


class MessagesBody(PromptBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/messages"""

    max_tokens: int
    stop_sequences: list[str] | None = None
    metadata: MessagesMetadata | None = None
    service_tier: str | None = None


FIELD_NAMES = {
    "stop": "stop_sequences",
    "max_completion_tokens": "max_tokens",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}  # a ChatBody's fields by what they are called here, for errors
MAX_TEMPERATURE = 1


def chat_of_messages(body: MessagesBody) -> ChatBody:
    """Raises ApiError 400 for what no chat can say."""
    return msgspec.structs.replace(
        chat_of_prompt(body), max_tokens=body.max_tokens, stop=body.stop_sequences
    )


def chat_of_prompt(body: PromptBody) -> ChatBody:
    """The chat without its limits."""
    if isinstance(body.temperature, float) and body.temperature > MAX_TEMPERATURE:
        message = f"temperature must be at least 0 and at most 1, is {body.temperature}"
        raise invalid(message, "temperature")
    choice = body.tool_choice
    fields = {**body.shared, "chat_template_kwargs": _variables(body)}
    return ChatBody(
        **fields,
        messages=_messages(body),
        tools=[_tool(index, tool) for index, tool in enumerate(body.tools or ())] or None,
        tool_choice=_tool_choice(choice),
        parallel_tool_calls=False if choice and choice.disable_parallel_tool_use else None,
    )


def _variables(body: PromptBody) -> dict[str, Any] | None:
    variables = dict(body.chat_template_kwargs or {})
    if body.thinking is not None:
        if body.thinking.type not in ("enabled", "disabled", "adaptive"):
            reason = f"must be enabled, disabled or adaptive, is {body.thinking.type!r}"
            raise invalid(f"thinking.type {reason}", "thinking.type")
        variables.setdefault("enable_thinking", body.thinking.type != "disabled")
    return variables or None


def _messages(body: PromptBody) -> list[Message]:
    messages: list[Message] = []
    if body.system is not None and body.system != []:
        messages.append(Message("system", _text("system", body.system)))
    if not body.messages:
        raise invalid("messages must have at least one message", "messages")
    for index, turn in enumerate(body.messages):
        where = f"messages[{index}]"
        if turn.role == "user":
            messages += _user(f"{where}.content", turn.content)
        elif turn.role == "assistant":
            messages.append(_assistant(f"{where}.content", turn.content))
        else:
            reason = f"must be user or assistant, is {turn.role!r}; system is a field of its own"
            raise invalid(f"{where}.role {reason}", f"{where}.role")
    return messages


def _user(where: str, content: str | Sequence[Block]) -> list[Message]:
    """Results of tools first, each as a message of its own, then what the user says."""
    if isinstance(content, str):
        return [Message("user", content)]
    messages: list[Message] = []
    said: list[Block] = []
    for index, block in enumerate(content):
        if block.type != "tool_result":
            said.append(block)
            continue
        place = f"{where}[{index}]"
        if block.tool_use_id is None:
            raise invalid(f"{place}.tool_use_id must be given", f"{place}.tool_use_id")
        result = _text(f"{place}.content", block.content or "")
        messages.append(Message("tool", result, tool_call_id=block.tool_use_id))
    if said or not messages:
        messages.append(Message("user", _text(where, said)))
    return messages


def _assistant(where: str, content: str | Sequence[Block]) -> Message:
    if isinstance(content, str):
        return Message("assistant", content)
    calls: list[ToolCall] = []
    said: list[Block] = []
    thoughts: list[str] = []
    for index, block in enumerate(content):
        if block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type == "tool_use":
            calls.append(_call(f"{where}[{index}]", block))
        else:
            said.append(block)
    return Message(
        "assistant",
        _text(where, said),
        tool_calls=calls or None,
        reasoning_content="\n".join(thoughts) or None,
    )


def _call(where: str, block: Block) -> ToolCall:
    if block.name is None or block.id is None:
        raise invalid(f"{where} must have a name and an id", where)
    arguments = json.dumps(block.input or {}, ensure_ascii=False)
    return ToolCall(FunctionCall(block.name, arguments), block.id, "function")


def _text(where: str, content: str | Sequence[Block]) -> str | list[ContentPart]:
    if isinstance(content, str):
        return content
    for index, block in enumerate(content):
        if block.type != "text" or block.text is None:
            place = f"{where}[{index}]"
            reason = f"a block of type {block.type!r} is not supported here"
            raise invalid(f"{place}: {reason}", place)
    return [ContentPart("text", block.text) for block in content]


def _tool(index: int, tool: MessagesTool) -> Tool:
    if tool.type not in (None, "custom"):
        where = f"tools[{index}].type"
        message = f"{where} must be custom, is {tool.type!r}: built-in tools are not supported"
        raise invalid(message, where, "unsupported_field")
    return Tool("function", Function(tool.name, tool.description, tool.input_schema))


def _tool_choice(choice: MessagesToolChoice | None) -> str | NamedChoice | None:
    if choice is None:
        return None
    if choice.type == "tool":
        return NamedChoice("function", FunctionName(choice.name or ""))
    if choice.type not in _CHOICES:
        message = f"tool_choice.type must be auto, any, tool or none, is {choice.type!r}"
        raise invalid(message, "tool_choice.type")
    return _CHOICES[choice.type]


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
