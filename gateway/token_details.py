"""What an answer shows of its tokens besides their text: ids and log-probabilities."""

from collections.abc import Sequence

import msgspec

from gateway.detokenizer import DetokenizerFactory
from router.output import OutputDelta
from wire.messages import TokenLogprobs


class Likely(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatToken(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Likely]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Of /v1/chat/completions."""

    content: list[ChatToken]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    """Of /v1/completions; text_offset: in characters from the answer's start."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TokenDetails:
    """The tokens of one choice that wait to be written, with their log-probabilities if asked."""

    __slots__ = ("logprobs", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprobs] = []

    def add(self, delta: OutputDelta, num_tokens: int) -> None:
        """Takes the first `num_tokens` of a delta: those that count for the answer."""
        self.tokens += delta.tokens[:num_tokens]
        self.logprobs += delta.logprobs[:num_tokens]

    def join(self, other: "TokenDetails") -> None:
        """Takes another's tokens behind its own."""
        self.tokens += other.tokens
        self.logprobs += other.logprobs


class LogprobWriter:
    """Writes token details in the shape of an endpoint; keeps each choice's text offset."""

    def __init__(self, detokenizers: DetokenizerFactory) -> None:
        self._detokenizers = detokenizers
        self._offsets: dict[int, int] = {}  # by choice

    def chat(self, details: TokenDetails) -> ChatLogprobs:
        pairs = zip(details.tokens, details.logprobs, strict=False)
        return ChatLogprobs([self._chat_token(token, found) for token, found in pairs])

    def text(self, index: int, details: TokenDetails) -> TextLogprobs:
        """The likeliest tokens of a position hold the chosen one, too."""
        texts = [self._detokenizers.token_text(token) for token in details.tokens]
        tops = [
            {
                **{self._detokenizers.token_text(t): value for t, value in found.top},
                text: found.logprob,
            }
            for text, found in zip(texts, details.logprobs, strict=False)
        ]
        logprobs = [found.logprob for found in details.logprobs]
        return TextLogprobs(texts, logprobs, tops, self._take_offsets(index, texts))

    def _take_offsets(self, index: int, texts: Sequence[str]) -> list[int]:
        offset = self._offsets.get(index, 0)
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        self._offsets[index] = offset
        return offsets

    def _chat_token(self, token: int, found: TokenLogprobs) -> ChatToken:
        chosen = self._likely(token, found.logprob)
        tops = [self._likely(*pair) for pair in found.top]
        return ChatToken(chosen.token, chosen.logprob, chosen.bytes, tops)

    def _likely(self, token: int, logprob: float) -> Likely:
        text = self._detokenizers.token_text(token)
        raw = self._detokenizers.token_bytes(token) or text.encode()
        return Likely(text, logprob, list(raw))
