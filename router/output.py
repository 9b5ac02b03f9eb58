"""What the router gives back for a request: tokens as they come, and how they came."""

from dataclasses import dataclass

from wire.messages import FinishReason, TokenLogprobs


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """Where and how one request ran; the last attempt's workers, times in seconds.

    kind: remote, local or degraded. prefill_worker is empty where decode_worker did all.
    transfer_s, exposed_s: the KV transfer, and what of it prefill did not hide. transfer_failure:
    why decode_worker computed the prompt again, empty if it did not.
    """

    kind: str
    prefill_worker: str
    decode_worker: str
    attempts: int
    placed_s: float = 0.0  # from arrival to the last placement
    queue_s: float = 0.0
    prefill_s: float = 0.0
    transfer_s: float = 0.0
    exposed_s: float = 0.0
    transfer_failure: str = ""
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """The next tokens of the answer; the last one alone has a finish_reason and the trace.

    logprobs: one a token where the request asks for them, else empty.
    """

    tokens: tuple[int, ...]
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    trace: RequestTrace | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
