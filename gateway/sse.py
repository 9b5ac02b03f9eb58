"""Writes the answers of one request: as server-sent events while they come, or whole."""

from gateway.answer import AnswerSet
from gateway.generation import Generation
from gateway.http_reply import Headers, HttpReply
from gateway.replies import DONE, Replies
from router.output import RequestTrace


async def stream_answers(
    generation: Generation, answers: AnswerSet, replies: Replies, reply: HttpReply
) -> None:
    """One write for all tokens that wait; usage, where asked for, and [DONE] go with the last."""
    opened: set[int] = set()
    while not answers.are_finished:
        events: list[bytes] = []
        for index, text, finish_reason in answers.feed(await generation.take()):
            if index not in opened:
                opened.add(index)
                events.append(replies.opening(index))
            events.append(replies.piece(index, text, finish_reason))
            if finish_reason is not None:
                generation.end(index)
        if answers.are_finished:
            events.append(replies.ending(answers.usage) + DONE)
        joined = b"".join(events)
        if joined:
            await reply.events(joined, last=answers.are_finished)


async def whole_answers(
    generation: Generation, answers: AnswerSet, replies: Replies, reply: HttpReply
) -> None:
    texts: list[list[str]] = [[] for _ in range(answers.num_answers)]
    reasons: dict[int, str] = {}
    while not answers.are_finished:
        for index, text, finish_reason in answers.feed(await generation.take()):
            texts[index].append(text)
            if finish_reason is not None:
                reasons[index] = finish_reason
                generation.end(index)
    choices = [("".join(pieces), reasons[index]) for index, pieces in enumerate(texts)]
    body = replies.whole(choices, answers.usage)
    await reply.whole(200, body, _worker_headers(answers.trace))


def _worker_headers(trace: RequestTrace | None) -> Headers:
    if trace is None:
        return ()
    workers = (
        (b"x-baton-prefill-worker", trace.prefill_worker or trace.decode_worker),
        (b"x-baton-decode-worker", trace.decode_worker),
    )
    return [(name, worker.encode()) for name, worker in workers if worker]
