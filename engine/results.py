"""What a step of the engine gives back, and how loaded the engine is."""

from dataclasses import dataclass

from wire.messages import NO_HOST, FinishReason, HostLoad, TokenLogprobs


@dataclass(frozen=True, slots=True)
class SeqTimes:
    """How long a sequence waited for its first chunk, and from there to its first token here."""

    queue_s: float
    prefill_s: float


@dataclass(slots=True)  # made for every token: to be frozen would cost three times that
class SeqOutput:
    """Output token `index` of a request; nobody changes it. `times` stands in a sequence's first
    and last output."""

    seq_id: int
    index: int
    token: int
    finish: FinishReason | None = None
    times: SeqTimes | None = None
    logprobs: TokenLogprobs | None = None  # where the request asks for them


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step gave. Prompt tokens that are recomputed count as prefill tokens again.

    failed: sequences whose logits were not finite; they ended without a token and hold nothing.
    num_drafts: guessed tokens that were computed; num_accepted: those that became output.
    """

    outputs: tuple[SeqOutput, ...]
    step_s: float
    num_prefill_tokens: int
    num_decode_tokens: int
    failed: tuple[int, ...] = ()
    num_drafts: int = 0
    num_accepted: int = 0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The engine's load at one moment; `WorkerReport` gives the same fields to the router."""

    num_running: int
    num_waiting: int
    waiting_tokens: int
    num_blocks: int
    num_free_blocks: int
    context_tokens: int
    num_preemptions: int
    host: HostLoad = NO_HOST
