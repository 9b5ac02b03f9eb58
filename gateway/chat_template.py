"""A model's chat format: messages to the text of a prompt, through its jinja2 template."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from gateway.errors import invalid
from gateway.message_parser import ToolStyle
from runtime.clock import wall_time_s

TemplateError = jinja2.TemplateError
Message = Mapping[str, Any]  # a message as templates read it: role, content and what goes with them


class ChatTemplate:
    """Runs in jinja2's sandbox with the helpers that templates of Hugging Face models expect."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """special_tokens: bos_token, eos_token and such, by field name.

        Raises TemplateError when the source cannot be compiled.
        """
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationBlock, jinja2.ext.loopcontrols],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(source)
        # Copied for each rendering, which takes far longer from the chain of maps that it is.
        self._template.globals = dict(self._template.globals)
        self.tool_style = _tool_style(source)
        self.thinks = "</think>" in source
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that asks for the assistant's next message.

        variables: the request's own, such as enable_thinking; they do not replace the others.
        Raises ApiError 400 when the template refuses the messages.
        """
        fixed = {
            "messages": messages,
            "add_generation_prompt": True,
            "tools": tools,
            "documents": None,
            **self._special_tokens,
        }
        taken = sorted(fixed.keys() & (variables or {}).keys())
        if taken:
            field = "chat_template_kwargs"
            raise invalid(f"{field} must not set {', '.join(taken)}", field)
        try:
            return self._template.render({**(variables or {}), **fixed})
        except _RENDER_ERRORS as error:
            reason = f"the model's chat template refuses these messages: {error}"
            raise invalid(reason, "messages") from error


def _tool_style(source: str) -> ToolStyle | None:
    """How the model was trained to call functions, by how its template writes their calls."""
    if "<tool_call>" in source:
        return ToolStyle.HERMES
    if "<|python_tag|>" in source or '"parameters": ' in source:
        return ToolStyle.LLAMA3
    return None


_RENDER_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)


class _GenerationBlock(jinja2.ext.Extension):
    """{% generation %} marks the assistant's text for training; here it changes nothing."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja2's own filter, escapes nothing for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.fromtimestamp(wall_time_s()).strftime(pattern)
