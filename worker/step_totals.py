"""What the router learns step times from: a step's work, added to the process's totals."""

from engine.batch import StepPlan
from wire.messages import StepTotals


def add_step(totals: StepTotals, plan: StepPlan, step_s: float) -> StepTotals:
    """The totals with one more step of that plan, which took step_s."""
    decodes = [chunk.end for chunk in plan.chunks if not chunk.is_prefill]
    prefills = [chunk for chunk in plan.chunks if chunk.is_prefill]
    return StepTotals(
        num_steps=totals.num_steps + 1,
        num_prefill_steps=totals.num_prefill_steps + bool(prefills),
        step_s=totals.step_s + step_s,
        num_decode_tokens=totals.num_decode_tokens + len(decodes),
        num_context_tokens=totals.num_context_tokens + sum(decodes),
        num_prefill_tokens=totals.num_prefill_tokens + sum(c.end - c.start for c in prefills),
        num_prefill_pairs=totals.num_prefill_pairs
        + sum(chunk.end**2 - chunk.start**2 for chunk in prefills),
    )
