"""Calls as Llama 3 models write them: the whole answer, or none of it."""

from collections.abc import Callable, Collection

from gateway.call_reader import CallReader
from gateway.chat_delta import Delta

_PYTHON_TAG = "<|python_tag|>"
_BETWEEN_CALLS = " ;\n\r\t"


class Llama3Reader:
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
