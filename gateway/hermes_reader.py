"""Calls as Hermes and Qwen models write them, inside of text."""

from collections.abc import Callable

from gateway.call_reader import CallReader
from gateway.chat_delta import Delta
from gateway.tag_text import split_at_tag

_CALL, _CALL_END = "<tool_call>", "</tool_call>"


class HermesReader:
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
