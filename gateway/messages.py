"""The messages of a conversation as a chat template reads them."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from gateway.chat_template import Message as TemplateMessage
from gateway.errors import invalid
from gateway.openai import Message, ToolCall

ROLES = ("system", "user", "assistant", "tool", "developer")


def template_messages(messages: Sequence[Message]) -> list[TemplateMessage]:
    if not messages:
        raise invalid("messages must have at least one message", "messages")
    return [_template_message(index, message) for index, message in enumerate(messages)]


def _template_message(index: int, message: Message) -> TemplateMessage:
    if message.role not in ROLES:
        reason = f"must be one of {', '.join(ROLES)}, is {message.role!r}"
        raise invalid(f"messages[{index}].role {reason}", f"messages[{index}].role")
    fields: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _content_text(index, message),
    }
    if message.tool_calls:
        fields["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            fields[name] = value
    return fields


def _template_call(call: ToolCall) -> dict[str, Any]:
    """Templates want the arguments as an object; what is none stays the text that it is."""
    arguments: Any = call.function.arguments or {}
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(arguments)
            arguments = parsed if isinstance(parsed, dict) else arguments
    function = {"name": call.function.name, "arguments": arguments}
    return {"type": "function", "id": call.id or "", "function": function}


def _content_text(index: int, message: Message) -> str:
    """Text parts are joined by line ends, as models' templates see one string."""
    content = message.content
    if isinstance(content, str):
        return content
    where = f"messages[{index}].content"
    if content is None:
        if message.role == "assistant" and message.tool_calls:
            return ""
        raise invalid(f"{where} must be a string or a list of text parts, is null", where)
    for part in content:
        if part.type != "text" or part.text is None:
            reason = f"a part of type {part.type!r} is not supported, only 'text' with a text"
            raise invalid(f"{where}: {reason}", where)
    return "\n".join(part.text or "" for part in content)
