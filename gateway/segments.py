"""A prompt's text cut where its parts are tokenized apart, and the parts' tokens kept.

A tokenizer takes the special tokens that a text spells out before it looks at anything else, and
then treats what stands between them each by itself. So the tokens of a text are those of its
segments, each of which ends with a special token: the messages of a conversation, which come back
with every turn.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from tokenizers import AddedToken, Tokenizer

from gateway.text_encoder import TextEncoder, exact_encoder

KEPT_CHARACTERS = 16 << 20
MIN_SEGMENT_CHARACTERS = 64


class SegmentCache:
    """The least recently used segments go first; shared by the threads that tokenize.

    Segments are kept by the salt of their prompt, so nobody learns from timing what another one
    with a salt has sent.
    """

    def __init__(self, max_characters: int = KEPT_CHARACTERS) -> None:
        self._max_characters = max_characters
        self._kept: OrderedDict[tuple[str, str], tuple[int, ...]] = OrderedDict()
        self._num_characters = 0
        self._lock = Lock()

    def get(self, salt: str, segment: str) -> tuple[int, ...] | None:
        with self._lock:
            tokens = self._kept.get((salt, segment))
            if tokens is not None:
                self._kept.move_to_end((salt, segment))
            return tokens

    def put(self, salt: str, segment: str, tokens: tuple[int, ...]) -> None:
        with self._lock:
            if (salt, segment) in self._kept or len(segment) > self._max_characters:
                return
            self._kept[salt, segment] = tokens
            self._num_characters += len(segment)
            while self._num_characters > self._max_characters:
                (_, dropped), _ = self._kept.popitem(last=False)
                self._num_characters -= len(dropped)

    def check_integrity(self) -> None:
        with self._lock:
            assert self._num_characters == sum(len(segment) for _, segment in self._kept)
            assert self._num_characters <= self._max_characters


class SegmentedTokenizer:
    """Tokenizes text without the tokens that a tokenizer adds around it."""

    def __init__(
        self, tokenizer: Tokenizer, cache: SegmentCache, encode: TextEncoder | None = None
    ) -> None:
        """encode: gives the tokenizer's own tokens, where it is not the tokenizer itself."""
        self._encode_texts = encode or exact_encoder(tokenizer)
        self._cache = cache
        ends = segment_ends(tokenizer)
        self._end = re.compile("|".join(map(re.escape, ends))) if ends else None

    def tokens(self, text: str, salt: str) -> tuple[int, ...]:
        """Equal to the tokenizer's own for the whole text."""
        tokens: list[int] = []
        missing: list[str] = []
        for segment in self._segments(text):
            found = None
            if len(segment) >= MIN_SEGMENT_CHARACTERS:
                found = self._cache.get(salt, segment)
            if found is None:
                missing.append(segment)
                continue
            tokens += self._encode(missing, salt)
            missing = []
            tokens += found
        tokens += self._encode(missing, salt)
        return tuple(tokens)

    def _segments(self, text: str) -> list[str]:
        if self._end is None:
            return [text]
        ends = [match.end() for match in self._end.finditer(text)]
        starts = [0, *ends]
        segments = [text[start:end] for start, end in zip(starts, ends, strict=False)]
        return [*segments, text[starts[-1] :]] if starts[-1] < len(text) else segments

    def _encode(self, segments: Sequence[str], salt: str) -> list[int]:
        """Those worth keeping each by itself, and what stands between them together."""
        if not segments:
            return []
        is_cut = self._end is not None
        parts: list[tuple[str, bool]] = []
        for segment in segments:
            is_kept = is_cut and len(segment) >= MIN_SEGMENT_CHARACTERS
            if parts and not is_kept and not parts[-1][1]:
                parts[-1] = (parts[-1][0] + segment, False)
            else:
                parts.append((segment, is_kept))
        encoded = self._encode_texts([part for part, _ in parts], False)
        tokens: list[int] = []
        for (part, is_kept), ids in zip(parts, encoded, strict=True):
            if is_kept:
                self._cache.put(salt, part, tuple(ids))
            tokens += ids
        return tokens


def segment_ends(tokenizer: Tokenizer) -> list[str]:
    """The added tokens after which a text may be cut; none for a kind of tokenizer whose segments
    depend on their place (such as one that marks the beginning of a text).

    Such a token is taken from the text as it is written, whatever stands around it, and no other
    added token can overlap with it.
    """
    described = json.loads(tokenizer.to_str())
    if not _is_placeless(described):
        return []
    added = list(tokenizer.get_added_tokens_decoder().values())
    return [
        token.content
        for token in added
        if _stands_alone(token)
        and not any(_overlap(token.content, other.content) for other in added if other is not token)
    ]


def _is_placeless(described: Mapping[str, Any]) -> bool:
    """Byte-level tokenizers, whose steps see one segment and not where it stands."""
    normalizer, pre = described.get("normalizer"), described.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    kinds = [step.get("type") for step in steps]
    is_plain = normalizer is None or normalizer.get("type") in ("NFC", "NFKC", "NFD", "NFKD")
    return is_plain and bool(kinds) and kinds[-1] == "ByteLevel" and set(kinds) <= _PLACELESS


def _stands_alone(token: AddedToken) -> bool:
    """single_word looks at its neighbours; a last character that is no letter ends a word."""
    if token.normalized or token.lstrip or token.rstrip or token.single_word:
        return False
    last = token.content[-1:]
    return bool(last) and not (last.isalnum() or last == "_" or last.isspace())


def _overlap(end: str, other: str) -> bool:
    """Whether `other` can share characters of a text with `end`."""
    if end in other or other in end:
        return True
    shorter = min(len(end), len(other))
    return any(
        end[-length:] == other[:length] or other[-length:] == end[:length]
        for length in range(1, shorter)
    )


_PLACELESS = {"Split", "Digits", "ByteLevel"}
