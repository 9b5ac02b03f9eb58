"""The texts of one request's choices as their tokens arrive."""

from collections.abc import Sequence

from gateway.detokenizer import Detokenizer, DetokenizerFactory
from gateway.meter import RequestMeter
from gateway.prepare import Prepared
from gateway.stop_strings import StopMatcher
from gateway.token_details import TokenDetails
from router.output import OutputDelta, RequestTrace
from wire.messages import FinishReason

# An answer's index, its new text, its finish reason or None, its new tokens where wanted, and the
# stop string that ended it.
Piece = tuple[int, str, str | None, TokenDetails | None, str | None]


class Answer:
    """Tokens in, text out, until a finish reason.

    OPEN -> feed -> OPEN | FINISHED. A stop string finishes it before the workers do; whoever feeds
    it then closes the generator. Tokens after the end are not counted and give no text.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        stop_token_ids: frozenset[int],
        min_tokens: int,
    ) -> None:
        """stop_token_ids: tokens that end an answer and are not part of its text."""
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops) if stops else None
        self._stop_token_ids = stop_token_ids
        self._min_tokens = min_tokens
        self.finish_reason: str | None = None
        self.num_output_tokens = 0
        self.num_cached_tokens = 0

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended it, where one did."""
        return self._matcher.found if self._matcher else None

    def feed(self, delta: OutputDelta) -> str:
        """The text that `delta` completes and that no stop string can take back."""
        if self.is_finished:
            return ""
        self.num_cached_tokens = max(self.num_cached_tokens, delta.num_cached_tokens)
        reason = delta.finish_reason
        tokens = delta.tokens
        if reason is FinishReason.STOP and tokens and tokens[-1] in self._stop_token_ids:
            text = self._push_all(tokens[:-1])
            self.num_output_tokens += not self.is_finished
        else:
            text = self._push_all(tokens)
        if reason is None or self.is_finished:
            return text
        text += self._through_stops(self._detokenizer.flush())
        if not self.is_finished:
            text += self._matcher.flush() if self._matcher else ""
            self.finish_reason = reason.value
        return text

    def _push_all(self, tokens: Sequence[int]) -> str:
        if self._matcher is None:
            self.num_output_tokens += len(tokens)
            return self._detokenizer.push(tokens)
        pieces: list[str] = []
        for token in tokens:
            self.num_output_tokens += 1
            pieces.append(self._through_stops(self._detokenizer.push((token,))))
            if self.is_finished:
                break
        return "".join(pieces)

    def _through_stops(self, piece: str) -> str:
        if self._matcher is None or not piece or self.num_output_tokens <= self._min_tokens:
            return piece
        text, stopped = self._matcher.push(piece)
        if stopped:
            self.finish_reason = FinishReason.STOP.value
        return text


class AnswerSet:
    """The answers to one request, one per choice, and what they amount to."""

    def __init__(
        self, prepared: Prepared, detokenizers: DetokenizerFactory, meter: RequestMeter
    ) -> None:
        self._num_prompt_tokens = prepared.num_prompt_tokens
        self._meter = meter
        self._answers = [
            Answer(
                detokenizers.open(), prepared.stops, prepared.stop_token_ids, prepared.min_tokens
            )
            for _ in prepared.requests
        ]
        self._num_open = len(self._answers)
        self._num_choices = prepared.num_choices
        self._wants_tokens = prepared.wants_tokens
        self.continuous_usage = prepared.continuous_usage
        self.trace: RequestTrace | None = None  # of the answer that ended last

    @property
    def num_answers(self) -> int:
        return len(self._answers)

    @property
    def are_finished(self) -> bool:
        return self._num_open == 0

    @property
    def num_prompt_tokens(self) -> int:
        return self._num_prompt_tokens

    @property
    def num_output_tokens(self) -> int:
        return sum(answer.num_output_tokens for answer in self._answers)

    @property
    def num_cached_tokens(self) -> int:
        """Of each prompt what all of its choices found: a choice may find another one's blocks."""
        found = [answer.num_cached_tokens for answer in self._answers]
        step = self._num_choices
        return sum(min(found[start : start + step]) for start in range(0, len(found), step))

    def feed(self, arrived: Sequence[tuple[int, OutputDelta]]) -> list[Piece]:
        """What arrived, as one piece per answer."""
        texts: dict[int, str] = {}
        details: dict[int, TokenDetails] = {}
        num_tokens = 0
        for index, delta in arrived:
            answer = self._answers[index]
            if answer.is_finished:
                continue
            num_before = answer.num_output_tokens
            text = answer.feed(delta)
            num_new = answer.num_output_tokens - num_before
            num_tokens += num_new
            if self._wants_tokens:
                details.setdefault(index, TokenDetails()).add(delta, num_new)
            texts[index] = texts[index] + text if index in texts else text
            if answer.is_finished:
                self._num_open -= 1
                self.trace = delta.trace or self.trace
                self._meter.cached(answer.num_cached_tokens)
        self._meter.tokens(num_tokens)
        return [self._piece(index, text, details.get(index)) for index, text in texts.items()]

    def _piece(self, index: int, text: str, details: TokenDetails | None) -> Piece:
        answer = self._answers[index]
        return index, text, answer.finish_reason, details, answer.stop_string
