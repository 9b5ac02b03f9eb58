"""The items of a response while an answer arrives: what opens, goes on and closes, as events."""

from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from gateway.chat_delta import Delta, ToolCallDelta
from gateway.replies import named_event
from gateway.responses_events import (
    ArgumentsDelta,
    ArgumentsDone,
    CallItem,
    Item,
    ItemAdded,
    ItemDone,
    MessageItem,
    OutputText,
    Part,
    PartAdded,
    PartDone,
    ReasoningItem,
    ReasoningText,
    TextDelta,
    TextDone,
    ThoughtDelta,
    ThoughtDone,
    tag_of,
)


class _Kind(Enum):
    TEXT = "msg"
    THOUGHT = "rs"
    CALL = "fc"


class ResponseOutput:
    """At most one item is open; another kind of news, or another call, closes it.

    NONE -> begin -> OPEN -> goes on -> OPEN -> close -> NONE, again for each item.
    """

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._sequence_number = 0
        self._kind: _Kind | None = None
        self._id = ""
        self._call = ("", "")  # the open call's id and name
        self._text: list[str] = []
        self.items: list[Item] = []

    def event(self, kind: Callable[..., msgspec.Struct], **fields: Any) -> bytes:
        """The next event of the stream."""
        body = kind(sequence_number=self._sequence_number, **fields)
        self._sequence_number += 1
        return named_event(tag_of(body), body)

    def take(self, delta: Delta) -> bytes:
        if delta.reasoning_content:
            return self._goes_on(_Kind.THOUGHT, ThoughtDelta, delta.reasoning_content)
        if delta.content:
            return self._goes_on(_Kind.TEXT, TextDelta, delta.content)
        return b"".join([self._take_call(call) for call in delta.tool_calls or ()])

    def close(self, status: str = "completed") -> bytes:
        """Ends the open item; status: incomplete where its answer was cut off."""
        if self._kind is None:
            return b""
        text = "".join(self._text)
        item = self._item(text, status)
        events = self._done(text) + self.event(ItemDone, output_index=len(self.items), item=item)
        self.items.append(item)
        self._kind = None
        return events

    def _take_call(self, call: ToolCallDelta) -> bytes:
        events = b""
        if call.id is not None and call.function is not None:
            events = self.close() + self._begin(_Kind.CALL, (call.id, call.function.name or ""))
        arguments = call.function.arguments if call.function else None
        if not arguments:
            return events
        self._text.append(arguments)
        return events + self.event(ArgumentsDelta, **self._place, delta=arguments)

    def _goes_on(self, kind: _Kind, event: Callable[..., msgspec.Struct], text: str) -> bytes:
        opening = b""
        if self._kind is not kind:
            opening = self.close() + self._begin(kind)
        self._text.append(text)
        return opening + self.event(event, **self._place, delta=text)

    def _begin(self, kind: _Kind, call: tuple[str, str] = ("", "")) -> bytes:
        self._kind, self._call, self._text = kind, call, []
        self._id = self._new_id(kind.value)
        item = self._item(None, "in_progress")
        events = self.event(ItemAdded, output_index=len(self.items), item=item)
        if kind is _Kind.CALL:
            return events
        return events + self.event(PartAdded, **self._place, part=self._part(""))

    def _done(self, text: str) -> bytes:
        if self._kind is _Kind.CALL:
            return self.event(ArgumentsDone, **self._place, name=self._call[1], arguments=text)
        kind = TextDone if self._kind is _Kind.TEXT else ThoughtDone
        events = self.event(kind, **self._place, text=text)
        return events + self.event(PartDone, **self._place, part=self._part(text))

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": len(self.items)}

    def _part(self, text: str) -> Part:
        return OutputText(text) if self._kind is _Kind.TEXT else ReasoningText(text)

    def _item(self, text: str | None, status: str) -> Item:
        """text: None where the item has just begun."""
        if self._kind is _Kind.CALL:
            return CallItem(self._id, *self._call, text or "", status)
        if self._kind is _Kind.TEXT:
            return MessageItem(self._id, status, () if text is None else (OutputText(text),))
        return ReasoningItem(self._id, status, () if text is None else (ReasoningText(text),))
