"""Splits a generated message into content, reasoning and tool calls while it arrives."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gateway.chat_delta import Delta
from gateway.hermes_reader import HermesReader
from gateway.llama3_reader import Llama3Reader
from gateway.thoughts import Thoughts


class ToolStyle(Enum):
    """How a model writes its calls."""

    HERMES = "hermes"  # <tool_call> {"name", "arguments"} </tool_call>, anywhere in the text
    LLAMA3 = "llama3"  # {"name", "parameters"}, the whole answer, several parted by semicolons


@dataclass(frozen=True, slots=True)
class MessageStyle:
    """What to look for in an answer.

    tools: None where the request offers none. num_calls: at most so many are given, 0: all.
    thinks: reasoning stands between tags at the beginning. is_thinking: the prompt has opened it.
    """

    tools: ToolStyle | None = None
    tool_names: frozenset[str] = frozenset()
    num_calls: int = 0
    thinks: bool = False
    is_thinking: bool = False

    @property
    def is_plain(self) -> bool:
        return self.tools is None and not self.thinks


class Reader(Protocol):
    """A part of the parser. The deltas do not depend on how the text was cut into pieces, but
    for where content and arguments are cut."""

    num_calls: int

    def push(self, text: str) -> list[Delta]: ...

    def finish(self) -> list[Delta]:
        """What was held back, once no more text can come."""
        ...


class MessageParser:
    """One answer: reasoning first, if the model thinks, then content and calls."""

    def __init__(self, style: MessageStyle, new_call_id: Callable[[], str]) -> None:
        self._max_calls = style.num_calls
        self._body = _body_reader(style, new_call_id)
        self._thoughts = Thoughts(style.is_thinking) if style.thinks else None

    @property
    def num_calls(self) -> int:
        return self._body.num_calls

    def push(self, text: str) -> list[Delta]:
        thoughts: list[Delta] = []
        if self._thoughts is not None:
            thoughts, text = self._thoughts.push(text)
        return thoughts + self._limited(self._body.push(text) if text else [])

    def finish(self) -> list[Delta]:
        thoughts: list[Delta] = []
        text = ""
        if self._thoughts is not None:
            thoughts, text = self._thoughts.finish()
        return thoughts + self._limited(
            (self._body.push(text) if text else []) + self._body.finish()
        )

    def _limited(self, deltas: list[Delta]) -> list[Delta]:
        if not self._max_calls:
            return deltas
        return [delta for delta in deltas if _call_index(delta) < self._max_calls]


def _call_index(delta: Delta) -> int:
    return (delta.tool_calls[0].index or 0) if delta.tool_calls else -1


def _body_reader(style: MessageStyle, new_call_id: Callable[[], str]) -> Reader:
    if style.tools is ToolStyle.HERMES:
        return HermesReader(new_call_id)
    if style.tools is ToolStyle.LLAMA3:
        return Llama3Reader(new_call_id, style.tool_names)
    return _PlainReader()


class _PlainReader:
    num_calls = 0

    def push(self, text: str) -> list[Delta]:
        return [Delta(content=text)]

    def finish(self) -> list[Delta]:
        return []
