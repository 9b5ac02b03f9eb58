"""Request bodies, and what of a conversation goes into the next one."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from loadtest.plan import ChatMessage, Segment, Turn
from loadtest.tokens import TokenBlocks, WordBlocks

_ANSWER_IDS = 1 << 42  # block ids that stand for answers where prompts are token ids


class PromptStyle(StrEnum):
    """How prompts are sent: token ids or text to /v1/completions, or messages."""

    IDS = "ids"
    TEXT = "text"
    CHAT = "chat"

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self is PromptStyle.CHAT else "/v1/completions"


class BodyOptions(msgspec.Struct, frozen=True):
    """What all bodies share. ignore_eos: answers are as long as the workload says.

    low, high: the range of synthetic token ids. words: of synthetic text. extra: JSON members that
    go before all others.
    """

    model: str
    style: PromptStyle
    seed: int = 0
    low: int = 300
    high: int = 1000
    words: tuple[str, ...] = ()
    ignore_eos: bool = True
    extra: Mapping[str, Any] = {}


class Dialogue(Protocol):
    """One conversation as far as it went."""

    def ask(self, turn: Turn) -> bytes:
        """Takes the turn in and gives the body of its request."""
        ...

    def answered(self, index: int, text: str, num_tokens: int) -> None:
        """Takes the answer to request `index` in."""
        ...


class BodyMaker:
    """Opens dialogues of one style."""

    def __init__(self, options: BodyOptions) -> None:
        self.options = options
        self.tokens = TokenBlocks(options.low, options.high, options.seed)
        self.words = WordBlocks(options.words or ("a",), options.seed)
        self._common: dict[str, Any] = {
            "model": options.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
        }
        if options.ignore_eos:
            self._common["ignore_eos"] = True

    def open(self) -> Dialogue:
        return _DIALOGUES[self.options.style](self)

    def encode(self, field: str, prompt: object, num_output: int) -> bytes:
        body = {**self._common, field: prompt, "max_tokens": num_output, **self.options.extra}
        return msgspec.json.encode(body)


class _IdsDialogue:
    """Prompts as token ids. An answer's own ids are not known: as many synthetic ones stand in."""

    def __init__(self, maker: BodyMaker) -> None:
        self._maker = maker
        self._segments: list[Segment] = []

    def ask(self, turn: Turn) -> bytes:
        self._segments += turn.segments
        ids = self._maker.tokens.tokens(self._segments).tolist()
        return self._maker.encode("prompt", ids, turn.num_output)

    def answered(self, index: int, text: str, num_tokens: int) -> None:
        if num_tokens:
            self._segments.append(Segment(_ANSWER_IDS + index, num_tokens))


class _TextDialogue:
    def __init__(self, maker: BodyMaker) -> None:
        self._maker = maker
        self._text = ""

    def ask(self, turn: Turn) -> bytes:
        self._text += self._maker.words.text(turn.segments)
        return self._maker.encode("prompt", self._text, turn.num_output)

    def answered(self, index: int, text: str, num_tokens: int) -> None:
        self._text += text


class _ChatDialogue:
    def __init__(self, maker: BodyMaker) -> None:
        self._maker = maker
        self._messages: list[ChatMessage] = []

    def ask(self, turn: Turn) -> bytes:
        if turn.segments:
            text = self._maker.words.text(turn.segments).lstrip()
            self._messages.append(ChatMessage("user", text))
        self._messages += turn.messages
        return self._maker.encode("messages", self._messages, turn.num_output)

    def answered(self, index: int, text: str, num_tokens: int) -> None:
        self._messages.append(ChatMessage("assistant", text))


_DIALOGUES: Mapping[PromptStyle, type[_IdsDialogue] | type[_TextDialogue] | type[_ChatDialogue]] = {
    PromptStyle.IDS: _IdsDialogue,
    PromptStyle.TEXT: _TextDialogue,
    PromptStyle.CHAT: _ChatDialogue,
}
