"""Reads one function call, a JSON object with a name and arguments, while it is generated."""

import json
import re
from collections.abc import Callable, Collection

from gateway.chat_delta import Delta, call_began, call_goes_on
from gateway.json_extent import JsonExtent

# Up to the arguments: from there on they are passed through as they come.
_HEADER = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


class CallReader:
    """READING -> its object ends -> complete, with the call given, or with `failed_text`."""

    def __init__(
        self, index: int, new_call_id: Callable[[], str], names: Collection[str] | None = None
    ) -> None:
        """names: an object that calls anything else is no call; None: whatever it calls."""
        self._index = index
        self._new_call_id = new_call_id
        self._names = names
        self._text = ""
        self._object = JsonExtent()
        self._arguments = JsonExtent()
        self.is_started = False
        self.failed_text = ""  # what was read, where it turned out to be no call

    @property
    def is_empty(self) -> bool:
        return not self._text

    @property
    def is_complete(self) -> bool:
        return self._object.is_complete

    def push(self, text: str) -> tuple[list[Delta], str]:
        """What the call goes on with, and the text behind its end."""
        length = self._object.push(text)
        taken, rest = text[:length], text[length:]
        self._text += taken
        deltas = self._pass_on(taken) if self.is_started else self._begin()
        if self.is_complete and not self.is_started:
            deltas = self.finish()
        return deltas, rest

    def finish(self) -> list[Delta]:
        """The answer or the object has ended: a call that did not show before, or none."""
        if self.is_started:
            return []
        call = _parse(self._text)
        if call is None or not self._is_known(call[0]):
            self.failed_text = self._text
            return []
        self.is_started = True
        name, arguments = call
        began = call_began(self._index, self._new_call_id(), name)
        return [began, call_goes_on(self._index, arguments)]

    def _begin(self) -> list[Delta]:
        header = _HEADER.match(self._text)
        if header is None:
            return []
        name = json.loads(header[1], strict=False)
        if not self._is_known(name):
            return []
        self.is_started = True
        began = call_began(self._index, self._new_call_id(), name)
        return [began, *self._pass_on(self._text[header.end() :])]

    def _pass_on(self, text: str) -> list[Delta]:
        arguments = text[: self._arguments.push(text)]
        return [call_goes_on(self._index, arguments)] if arguments else []

    def _is_known(self, name: str) -> bool:
        return self._names is None or name in self._names


def _parse(text: str) -> tuple[str, str] | None:
    """Name and arguments of a whole call, in whatever order; None for text that is no call."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        return call["name"], arguments
    return call["name"], json.dumps(arguments, ensure_ascii=False)
