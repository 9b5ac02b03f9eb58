"""Reasoning that a model writes between tags before its answer."""

from gateway.chat_delta import Delta
from gateway.tag_text import split_at_tag

_THINK, _THINK_END = "<think>", "</think>"


class Thoughts:
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
