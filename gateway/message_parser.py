"""Splits a generated message into content, reasoning and tool calls while it arrives."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gateway.call_reader import CallReader
from gateway.chat_delta import Delta
from gateway.tag_text import split_at_tag

_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_THINK, _THINK_END = "<think>", "</think>"
_PYTHON_TAG = "<|python_tag|>"
_BETWEEN_CALLS = " ;\n\r\t"


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
        self._thoughts = _Thoughts(style.is_thinking) if style.thinks else None

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
        return _HermesReader(new_call_id)
    if style.tools is ToolStyle.LLAMA3:
        return _Llama3Reader(new_call_id, style.tool_names)
    return _PlainReader()


class _Thoughts:
    """START -> <think> -> THINKING -> </think> -> OVER; START -> any other text -> OVER"""

    def __init__(self, is_thinking: bool) -> None:
        self._is_open = is_thinking
        self._is_over = False
        self._skips_line_ends = False
        self._held = ""

    def push(self, text: str) -> tuple[list[Delta], str]:
        """Reasoning, and the text that is none."""
        if self._is_over:
            return [], self._behind(text)
        text, self._held = self._held + text, ""
        if not self._is_open:
            start = text.lstrip()
            if _THINK.startswith(start) and start != _THINK:
                self._held = text
                return [], ""
            if not start.startswith(_THINK):
                self._is_over = True
                return [], text
            self._is_open = True
            text = start.removeprefix(_THINK)
        return self._think(text)

    def finish(self) -> tuple[list[Delta], str]:
        if self._is_over:
            return [], ""
        self._is_over = True
        held, self._held = self._held, ""
        return (
            ([Delta(reasoning_content=held)] if held else [], "") if self._is_open else ([], held)
        )

    def _think(self, text: str) -> tuple[list[Delta], str]:
        before, behind = split_at_tag(text, _THINK_END)
        deltas = [Delta(reasoning_content=before)] if before else []
        if behind is None:
            self._held = text[len(before) :]
            return deltas, ""
        self._is_over = True
        self._skips_line_ends = True
        return deltas, self._behind(behind)

    def _behind(self, text: str) -> str:
        """The line ends between reasoning and answer belong to neither."""
        if self._skips_line_ends:
            text = text.lstrip("\n")
            self._skips_line_ends = not text
        return text


class _PlainReader:
    num_calls = 0

    def push(self, text: str) -> list[Delta]:
        return [Delta(content=text)]

    def finish(self) -> list[Delta]:
        return []


class _HermesReader:
    """CONTENT -> <tool_call> -> CALL -> its object ends -> CLOSING -> </tool_call> -> CONTENT"""

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self._new_call_id = new_call_id
        self._call: CallReader | None = None
        self._is_closing = False
        self._held = ""
        self.num_calls = 0

    def push(self, text: str) -> list[Delta]:
        deltas: list[Delta] = []
        rest: str | None = self._held + text
        self._held = ""
        while rest:
            if self._is_closing:
                rest = self._close(rest)
            elif self._call is None:
                rest = self._content(rest, deltas)
            else:
                rest = self._in_call(self._call, rest, deltas)
        return deltas

    def finish(self) -> list[Delta]:
        held, self._held = self._held, ""
        if self._call is not None and not self._is_closing:
            return self._end_call(self._call, self._call.finish())
        is_shown = not self._is_closing and (held.strip() or not self.num_calls)
        return [Delta(content=held)] if held and is_shown else []

    def _content(self, text: str, deltas: list[Delta]) -> str | None:
        """White space before a call is not content, so it waits for what follows."""
        before, behind = split_at_tag(text, _CALL)
        shown = before.rstrip()
        if shown:
            deltas.append(Delta(content=shown))
        if behind is None:
            self._held = text[len(shown) :]
        else:
            self._call = CallReader(self.num_calls, self._new_call_id)
        return behind

    def _in_call(self, call: CallReader, text: str, deltas: list[Delta]) -> str:
        if call.is_empty:
            text = text.lstrip()
            if text and not text.startswith("{"):
                deltas += self._end_call(call, [])
                return text
        new, rest = call.push(text)
        deltas += self._end_call(call, new) if call.is_complete else new
        return rest

    def _end_call(self, call: CallReader, deltas: list[Delta]) -> list[Delta]:
        """What was between the tags and is no call is content like any other."""
        if call.is_started:
            self.num_calls += 1
            self._is_closing = True
            return deltas
        self._call = None
        return [*deltas, Delta(content=_CALL + call.failed_text)]

    def _close(self, text: str) -> str | None:
        before, behind = split_at_tag(text, _CALL_END)
        if behind is None:
            self._held = text[len(before) :]
            return None
        self._is_closing = False
        self._call = None
        return behind


class _Llama3Reader:
    """START -> { -> CALL -> its object ends -> BETWEEN -> { -> CALL; START -> other text -> TEXT"""

    def __init__(self, new_call_id: Callable[[], str], names: Collection[str]) -> None:
        self._new_call_id = new_call_id
        self._names = names
        self._call: CallReader | None = None
        self._is_text = False
        self._held = ""
        self.num_calls = 0

    def push(self, text: str) -> list[Delta]:
        deltas: list[Delta] = []
        rest, self._held = self._held + text, ""
        while rest:
            if self._is_text:
                deltas.append(Delta(content=rest))
                break
            if self._call is None:
                rest = self._before_call(rest)
            else:
                rest = self._in_call(self._call, rest, deltas)
        return deltas

    def finish(self) -> list[Delta]:
        if self._call is not None:
            return self._end_call(self._call, self._call.finish())
        held, self._held = self._held, ""
        return [Delta(content=held)] if held and not self.num_calls else []

    def _before_call(self, text: str) -> str:
        start = text.lstrip(_BETWEEN_CALLS if self.num_calls else None)
        start = start.removeprefix(_PYTHON_TAG).lstrip()
        if not start or _PYTHON_TAG.startswith(start):
            self._held = text
            return ""
        if start.startswith("{"):
            self._call = CallReader(self.num_calls, self._new_call_id, self._names)
            return start
        self._is_text = True
        return text

    def _in_call(self, call: CallReader, text: str, deltas: list[Delta]) -> str:
        new, rest = call.push(text)
        if call.is_complete:
            deltas += self._end_call(call, new)
            self._call = None
        else:
            deltas += new
        return rest

    def _end_call(self, call: CallReader, deltas: list[Delta]) -> list[Delta]:
        if call.is_started:
            self.num_calls += 1
            return deltas
        self._is_text = True
        return [*deltas, Delta(content=call.failed_text)] if call.failed_text else deltas
