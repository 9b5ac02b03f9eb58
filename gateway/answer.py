"""The texts of one request's choices as their tokens arrive."""

from collections.abc import Sequence

from gateway.detokenizer import Detokenizer, DetokenizerFactory
from gateway.meter import RequestMeter
from gateway.prepare import Prepared
from gateway.replies import Usage, usage_of
from gateway.stop_strings import StopMatcher
from router.output import OutputDelta, RequestTrace
from wire.messages import FinishReason


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
        pieces: list[str] = []
        for token in tokens:
            self.num_output_tokens += 1
            pieces.append(self._through_stops(self._detokenizer.push(token)))
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
    """The answers to one request, one per prompt, and what they amount to."""

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
        self.trace: RequestTrace | None = None  # of the answer that ended last

    @property
    def num_answers(self) -> int:
        return len(self._answers)

    @property
    def are_finished(self) -> bool:
        return all(answer.is_finished for answer in self._answers)

    @property
    def usage(self) -> Usage:
        return usage_of(
            self._num_prompt_tokens,
            sum(answer.num_output_tokens for answer in self._answers),
            sum(answer.num_cached_tokens for answer in self._answers),
        )

    def finish_reason(self, index: int) -> str | None:
        return self._answers[index].finish_reason

    def feed(self, arrived: Sequence[tuple[int, OutputDelta]]) -> list[tuple[int, str]]:
        """The new text of each answer that got tokens or its end, in the order of arrival."""
        texts: dict[int, str] = {}
        num_before = sum(answer.num_output_tokens for answer in self._answers)
        for index, delta in arrived:
            answer = self._answers[index]
            if not answer.is_finished:
                texts[index] = texts.get(index, "") + answer.feed(delta)
                self.trace = delta.trace or self.trace
        num_after = sum(answer.num_output_tokens for answer in self._answers)
        self._meter.tokens(num_after - num_before)
        if texts and self.are_finished:
            self._meter.cached(self.usage.prompt_tokens_details.cached_tokens)
        return list(texts.items())
