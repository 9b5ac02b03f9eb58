"""Legs run on workers that worker.build made; the test is the thread that owns the cores."""

from wire.block_hash import block_hashes
from wire.messages import (
    GenerateRequest,
    LegPublished,
    LegTokens,
    LegTransferred,
    SamplingParams,
    StartLeg,
)
from worker.build import WorkerParts
from worker.commands import Join, Start


def greedy(prompt: tuple[int, ...], num_tokens: int) -> GenerateRequest:
    sampling = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
    return GenerateRequest("r", prompt, sampling, block_hashes=tuple(block_hashes(prompt)))


def run_leg(parts: WorkerParts, leg: StartLeg) -> tuple[list[int], list[object]]:
    """The tokens and all events of one leg, until nothing is left of it to run."""
    until = LegTransferred if leg.handle is not None else LegTokens
    parts.core.apply(Join(1))
    parts.core.apply(Start(1, leg))
    found: list[object] = []
    while True:
        plan = parts.core.begin_step()
        found.extend(parts.core.take_outbox().events.get(1, ()))
        if plan is not None:
            parts.core.run_step(plan)
            found.extend(parts.core.take_outbox().events.get(1, ()))
        elif any(isinstance(event, until) for event in found):
            break
        else:
            parts.core.apply(parts.inbox.take(block=True))  # type: ignore[arg-type]
    tokens = [token for event in found if isinstance(event, LegTokens) for token in event.tokens]
    return tokens, found


def handed_over(
    source: WorkerParts, target: WorkerParts, request: GenerateRequest, leg_id: int = 1
) -> tuple[list[int], LegTransferred]:
    """The answer to a prompt that one worker computes and the other continues, and the move."""
    first, events = run_leg(source, StartLeg(leg_id, request, prefill_only=True))
    handle = next(event.handle for event in events if isinstance(event, LegPublished))
    rest, events = run_leg(target, StartLeg(leg_id, request, handle=handle))
    moved = next(event for event in events if isinstance(event, LegTransferred))
    assert not moved.failure and moved.num_bytes > 0
    return first + rest[-(request.sampling.max_tokens - 1) :], moved
