"""Writes the answers of one request: as server-sent events while they come, or whole."""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from gateway.answer import AnswerSet
from gateway.generation import Generation
from gateway.http_reply import Headers, HttpReply
from gateway.replies import CachedTokens, Replies, Stages, Usage
from gateway.token_details import TokenDetails
from router.output import OutputDelta, RequestTrace


async def stream_answers(
    generation: Generation, answers: AnswerSet, replies: Replies, reply: HttpReply
) -> None:
    """One write for all tokens that wait; the stream's end goes with the last."""
    stream = _Stream(generation, answers, replies, reply)
    generation.hand_over(stream.take_at_once)
    while not answers.are_finished:
        stream.take(await generation.take())
        await stream.send()


class _Stream:
    """The events of one request: made as deltas come, kept until they are sent."""

    def __init__(
        self, generation: Generation, answers: AnswerSet, replies: Replies, reply: HttpReply
    ) -> None:
        self._generation = generation
        self._answers = answers
        self._replies = replies
        self._reply = reply
        self._opened: set[int] = set()
        self._unsent: list[bytes] = []

    def take(self, arrived: Sequence[tuple[int, OutputDelta]]) -> None:
        answers, replies, unsent = self._answers, self._replies, self._unsent
        pieces = answers.feed(arrived)
        if answers.continuous_usage:
            replies.usage = _usage(answers)
        for piece in pieces:
            index = piece[0]
            if index not in self._opened:
                self._opened.add(index)
                unsent.append(replies.opening(index))
            unsent.append(replies.piece(piece))
            if piece[2] is not None:
                self._generation.end(index)
        if answers.are_finished and arrived:
            unsent.append(replies.ending(_usage(answers), _stages(answers.trace)))

    def take_at_once(self, index: int, delta: OutputDelta) -> bool:
        """False where something is left to send()."""
        self.take(((index, delta),))
        events = b"".join(self._unsent)
        if self._answers.are_finished or (events and not self._reply.write(events)):
            return False
        self._unsent.clear()
        return True

    async def send(self) -> None:
        events = b"".join(self._unsent)
        self._unsent.clear()
        if events:
            self._reply.waited(self._generation.waiting)
            await self._reply.events(events, last=self._answers.are_finished)


async def whole_answers(
    generation: Generation, answers: AnswerSet, replies: Replies, reply: HttpReply
) -> None:
    texts: list[list[str]] = [[] for _ in range(answers.num_answers)]
    ends: dict[int, tuple[str | None, str | None]] = {}
    details: dict[int, TokenDetails] = {}
    while not answers.are_finished:
        for index, text, finish_reason, new, stop_string in answers.feed(await generation.take()):
            texts[index].append(text)
            if new is not None:
                details.setdefault(index, TokenDetails()).join(new)
            if finish_reason is not None:
                ends[index] = finish_reason, stop_string
                generation.end(index)
    choices = [
        (index, "".join(pieces), ends[index][0], details.get(index), ends[index][1])
        for index, pieces in enumerate(texts)
    ]
    reply.show(_stages(answers.trace))
    reply.waited(generation.waiting)
    body = replies.whole(choices, _usage(answers))
    await reply.whole(200, body, _worker_headers(answers.trace))


def _usage(answers: AnswerSet) -> Usage:
    num_prompt, num_output = answers.num_prompt_tokens, answers.num_output_tokens
    return Usage(
        prompt_tokens=num_prompt,
        completion_tokens=num_output,
        total_tokens=num_prompt + num_output,
        prompt_tokens_details=CachedTokens(answers.num_cached_tokens),
    )


def _stages(trace: RequestTrace | None) -> Stages | UnsetType:
    """UNSET where a stop string ended the answer, before the workers told."""
    if trace is None:
        return UNSET
    return Stages(
        kind=trace.kind,
        decode_worker=trace.decode_worker,
        attempts=trace.attempts,
        placed_ms=_milliseconds(trace.placed_s),
        queue_ms=_milliseconds(trace.queue_s),
        prefill_ms=_milliseconds(trace.prefill_s),
        prefill_worker=trace.prefill_worker,
        transfer_ms=_milliseconds(trace.transfer_s),
        exposed_ms=_milliseconds(trace.exposed_s),
        transfer_failure=trace.transfer_failure,
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _worker_headers(trace: RequestTrace | None) -> Headers:
    if trace is None:
        return ()
    workers = (
        (b"x-baton-prefill-worker", trace.prefill_worker or trace.decode_worker),
        (b"x-baton-decode-worker", trace.decode_worker),
    )
    return [(name, worker.encode()) for name, worker in workers if worker]
