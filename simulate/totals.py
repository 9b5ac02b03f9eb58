"""A worker's step totals in virtual time: what a stretch of equal steps adds to them."""

from collections.abc import Iterable
from dataclasses import dataclass

from simulate.chunk import Chunk
from wire.messages import StepTotals


@dataclass(slots=True)
class RunningTotals:
    """The sums of StepTotals, which are made only where somebody is told them."""

    num_steps: int = 0
    num_prefill_steps: int = 0
    step_s: float = 0.0
    num_decode_tokens: int = 0
    num_context_tokens: int = 0
    num_prefill_tokens: int = 0
    num_prefill_pairs: int = 0

    def add(
        self, seconds: float, count: int, num_decodes: int, context: int, chunks: Iterable[Chunk]
    ) -> None:
        """`count` steps of num_decodes legs, each of which grows a token a step.

        context: tokens in their KV before the first step. chunks: of a single step.
        """
        self.num_steps += count
        self.step_s += seconds
        self.num_decode_tokens += num_decodes * count
        self.num_context_tokens += _context_steps(count, num_decodes, context)
        is_prefill = False
        for chunk in chunks:
            start, end, is_prefill = chunk.start, chunk.end, True
            self.num_prefill_tokens += end - start
            self.num_prefill_pairs += end * end - start * start
        self.num_prefill_steps += is_prefill

    def after(self, seconds: float, count: int, num_decodes: int, context: int) -> StepTotals:
        """As they would be after such steps without prefill."""
        return StepTotals(
            self.num_steps + count,
            self.num_prefill_steps,
            self.step_s + seconds,
            self.num_decode_tokens + num_decodes * count,
            self.num_context_tokens + _context_steps(count, num_decodes, context),
            self.num_prefill_tokens,
            self.num_prefill_pairs,
        )


def _context_steps(count: int, num_decodes: int, context: int) -> int:
    return context * count + num_decodes * (count * (count - 1) // 2)
