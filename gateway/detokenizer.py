"""Token ids to text as they come, never splitting a character."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Protocol

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
_MAX_CHARACTER_BYTES = 4


class Detokenizer(Protocol):
    """The text of one answer. The pieces of push and flush, joined, are the whole text."""

    def push(self, tokens: Sequence[int]) -> str:
        """The text that the next tokens complete; empty while a character is incomplete."""
        ...

    def flush(self) -> str:
        """What is left at the answer's end: an incomplete character as U+FFFD."""
        ...


class DetokenizerFactory:
    """What all answers of one tokenizer share: which decoder it has, and the bytes of its tokens.

    Tokenizers whose tokens stand for bytes (byte-level BPE, and SentencePiece's with byte
    fallback) are decoded through a table of bytes; any other through `Tokenizer.decode`.
    """

    def __init__(self, tokenizer: Tokenizer, decoder: Mapping[str, object]) -> None:
        """decoder: the "decoder" object of tokenizer.json."""
        self._tokenizer = tokenizer
        self._kind = _kind_of(decoder)
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(id_ for id_, token in added.items() if token.special)
        self._bytes: dict[int, bytes] = {}

    def open(self) -> Detokenizer:
        if self._kind is None:
            return _WindowDetokenizer(self._tokenizer, self._special)
        return _BytesDetokenizer(self, strips_space=self._kind == "fallback")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a special or unknown token."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._compute(token)
        return known

    def token_text(self, token: int) -> str:
        """A token on its own; a special one as it is written, U+FFFD for a part of a character."""
        if token in self._special:
            return self._tokenizer.id_to_token(token) or ""
        return self.token_bytes(token).decode(errors="replace")

    def _compute(self, token: int) -> bytes:
        text = self._tokenizer.id_to_token(token)
        if text is None or token in self._special:
            return b""
        if self._kind == "fallback":
            return _fallback_bytes(text)
        try:
            return bytes(_BYTE_OF_CHARACTER[character] for character in text)
        except KeyError:  # an added token that is written as it reads
            return text.encode()


class _BytesDetokenizer:
    def __init__(self, factory: DetokenizerFactory, *, strips_space: bool) -> None:
        self._token_bytes = factory.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strips_space = strips_space

    def push(self, tokens: Sequence[int]) -> str:
        return self._stripped(self._decoder.decode(b"".join(map(self._token_bytes, tokens))))

    def flush(self) -> str:
        return self._stripped(self._decoder.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        if self._strips_space and text:
            self._strips_space = False
            return text.removeprefix(" ")
        return text


class _WindowDetokenizer:
    """Decodes the tokens since the last emitted piece behind that piece's tokens as context."""

    def __init__(self, tokenizer: Tokenizer, special: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, tokens: Sequence[int]) -> str:
        return "".join(map(self._push, tokens))

    def _push(self, token: int) -> str:
        if token in self._special:
            return ""
        self._pending.append(token)
        text = self._new_text()
        if text.endswith(REPLACEMENT) and len(self._pending) < _MAX_CHARACTER_BYTES:
            return ""
        return self._emit(text)

    def flush(self) -> str:
        return self._emit(self._new_text())

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]

    def _emit(self, text: str) -> str:
        if text:
            self._context, self._pending = self._pending, []
        return text


def _kind_of(decoder: Mapping[str, object]) -> str | None:
    if decoder.get("type") == "ByteLevel":
        return "byte_level"
    return "fallback" if decoder == _FALLBACK_DECODER else None


def _fallback_bytes(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            pass
    return text.replace("\u2581", " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's mapping: printable bytes stand for themselves, the others for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_level_alphabet()
_FALLBACK_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
