"""A worker's step totals in virtual time: what a stretch of equal steps adds to them."""

from collections.abc import Iterable

from simulate.chunk import Chunk
from wire.messages import StepTotals


def add_stretch(
    totals: StepTotals,
    *,
    seconds: float,
    count: int,
    num_decodes: int,
    context_tokens: int,
    chunks: Iterable[Chunk],
) -> StepTotals:
    """The totals after `count` steps of num_decodes legs, each of which grows a token a step.

    context_tokens: before the first of them.
    """
    spans = [(chunk.start, chunk.end) for chunk in chunks]
    grown = num_decodes * (count * (count - 1) // 2)
    return StepTotals(
        num_steps=totals.num_steps + count,
        num_prefill_steps=totals.num_prefill_steps + bool(spans),
        step_s=totals.step_s + seconds,
        num_decode_tokens=totals.num_decode_tokens + num_decodes * count,
        num_context_tokens=totals.num_context_tokens + context_tokens * count + grown,
        num_prefill_tokens=totals.num_prefill_tokens + sum(end - start for start, end in spans),
        num_prefill_pairs=totals.num_prefill_pairs
        + sum(end * end - start * start for start, end in spans),
    )
