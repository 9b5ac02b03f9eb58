"""The functions that a request offers to the model, and how it has to call them."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.chat_template import Message as TemplateMessage
from gateway.errors import invalid
from gateway.message_parser import ToolStyle
from gateway.openai import ChatBody, NamedChoice, Tool
from wire.grammar import lark_string
from wire.messages import Grammar, GrammarKind

MAX_TOOLS = 128
_CHOICES = ("none", "auto", "required")


def offered_tools(body: ChatBody) -> Sequence[Tool]:
    """The tools that the prompt shows: none where tool_choice is none.

    Raises ApiError 400 for a tool that cannot be offered and for a choice of one that is not there.
    """
    tools = body.tools or []
    if len(tools) > MAX_TOOLS:
        raise invalid(f"tools has {len(tools)} tools, at most {MAX_TOOLS} go", "tools")
    names = [tool.function.name for tool in tools]
    for index, tool in enumerate(tools):
        if tool.type != "function":
            field = f"tools[{index}].type"
            raise invalid(f"{field} must be function, is {tool.type!r}", field)
        if not tool.function.name or names.index(tool.function.name) != index:
            field = f"tools[{index}].function.name"
            raise invalid(f"{field} must be given, and once only", field)
    _check_choice(body.tool_choice, names)
    return [] if body.tool_choice == "none" else tools


def template_tools(tools: Sequence[Tool]) -> list[TemplateMessage] | None:
    """As chat templates read them; None for no tools."""
    return [msgspec.to_builtins(tool) for tool in tools] or None


def forced_call(body: ChatBody, tools: Sequence[Tool], style: ToolStyle) -> Grammar | None:
    """The grammar of a call that tool_choice demands; None where the model is free to answer."""
    choice = body.tool_choice
    if choice in (None, "none", "auto"):
        return None
    if isinstance(choice, NamedChoice):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
    opening, key, closing, separator = _FORMS[style]
    is_single = isinstance(choice, NamedChoice) or body.parallel_tool_calls is False
    names = [f"call_{index}" for index in range(len(tools))]
    lines = [f"call: {' | '.join(names)}"]
    lines.insert(0, "start: call" if is_single else f"start: call ({lark_string(separator)} call)*")
    for name, tool in zip(names, tools, strict=True):
        head = f'{opening}{{"name": {json.dumps(tool.function.name)}, "{key}": '
        schema = tool.function.parameters or {"type": "object"}
        lines.append(f"{name}: {lark_string(head)} {name}_arguments {lark_string('}' + closing)}")
        lines.append(f"{name}_arguments: %json {json.dumps(_compact(schema))}")
    return Grammar(GrammarKind.LARK, "\n".join(lines))


# What goes before a call, the name of its arguments, what goes behind it and between two.
_FORMS = {
    ToolStyle.HERMES: ("<tool_call>\n", "arguments", "\n</tool_call>", "\n"),
    ToolStyle.LLAMA3: ("", "parameters", "", "; "),
}


def _check_choice(choice: Any, names: Sequence[str]) -> None:
    if choice is None or (isinstance(choice, str) and choice in _CHOICES):
        if choice == "required" and not names:
            raise invalid("tool_choice is required, and tools offers none", "tool_choice")
        return
    if isinstance(choice, NamedChoice) and choice.type == "function":
        if choice.function.name in names:
            return
        raise invalid(f"tool_choice names {choice.function.name!r}; no such tool", "tool_choice")
    message = f"tool_choice must be one of {', '.join(_CHOICES)}, or name a function"
    raise invalid(message, "tool_choice")


def _compact(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments on one line, as the models were trained to write them."""
    return {**schema, "x-guidance": {"whitespace_flexible": True, "whitespace_pattern": " "}}
