"""One answer's text as deltas of a message: content, reasoning and calls."""

from collections.abc import Sequence

from gateway.chat_delta import Delta
from gateway.message_parser import MessageParser, MessageStyle
from runtime.lifecycle import new_id


class AnswerDeltas:
    """Without a style the answer's text is its content."""

    def __init__(self, style: MessageStyle | None) -> None:
        self._parser = MessageParser(style, lambda: new_id("call")) if style else None

    def push(self, text: str, finish_reason: str | None) -> tuple[list[Delta], str | None]:
        """An answer that ends with a call has the finish reason tool_calls."""
        parser = self._parser
        if parser is None:
            return [Delta(content=text)] if text else [], finish_reason
        deltas = parser.push(text) if text else []
        if finish_reason is not None:
            deltas += parser.finish()
            if finish_reason == "stop" and parser.num_calls:
                finish_reason = "tool_calls"
        return deltas, finish_reason


def content_of(deltas: Sequence[Delta]) -> str:
    return "".join([delta.content or "" for delta in deltas])


def reasoning_of(deltas: Sequence[Delta]) -> str:
    return "".join([delta.reasoning_content or "" for delta in deltas])
