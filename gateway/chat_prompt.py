"""A conversation as the text of a prompt, and what its answer may look like."""

from dataclasses import dataclass

from gateway.chat_template import ChatTemplate
from gateway.errors import invalid
from gateway.message_parser import MessageStyle
from gateway.messages import template_messages
from gateway.openai import ChatBody
from gateway.tools import forced_call, offered_tools, template_tools
from wire.messages import Grammar


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """call: the grammar of a tool call that the answer has to be, if the request demands one."""

    text: str
    style: MessageStyle
    call: Grammar | None


def chat_prompt(body: ChatBody, template: ChatTemplate | None) -> ChatPrompt:
    """Raises ApiError 400 for messages or tools that the model's chat format does not take."""
    if template is None:
        message = "the model has no chat template; use /v1/completions"
        raise invalid(message, "messages", "no_chat_template")
    tools = offered_tools(body)
    if tools and template.tool_style is None:
        raise invalid("the model's chat format has no tool calls", "tools", "unsupported_field")
    text = template.render(
        template_messages(body.messages), template_tools(tools), body.chat_template_kwargs
    )
    style = MessageStyle(
        tools=template.tool_style if tools else None,
        tool_names=frozenset(tool.function.name for tool in tools),
        num_calls=1 if body.parallel_tool_calls is False else 0,
        thinks=template.thinks,
        is_thinking=text.rstrip().endswith("<think>"),
    )
    call = forced_call(body, tools, template.tool_style) if tools and template.tool_style else None
    return ChatPrompt(text, style, call)
