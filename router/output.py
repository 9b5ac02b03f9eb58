"""What the router gives back for a request: tokens as they come, and how they came."""

from dataclasses import dataclass

from router.policies.policy import Forecast
from wire.messages import FinishReason, TokenLogprobs


@dataclass(frozen=True, slots=True)
class CandidateTrace:
    """A pair that placement weighed, and what it was predicted to give."""

    prefill_worker: str
    decode_worker: str
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """Where and how one request ran; the last attempt's workers, times in seconds.

    arrived_s: on the router's clock. admitted_s: from then until admission let it in. tenant,
    model: of the request's terms. num_cached_tokens: of the prompt, before the first token.
    ttft_slo_s, tpot_slo_s: the request's objectives.
    kind: remote, local or degraded; empty if it was placed nowhere. outcome: a finish reason, an
    error's code, or cancelled. ttft_s, tpot_s: as the router saw them, from the request's arrival.
    predicted, candidates: the chosen pair's forecast and the best pairs, the chosen one first,
    where the policy predicts; of the last placement. prefill_worker is empty where decode_worker
    did all.
    moves: how often the answer moved to another worker while it ran; pause_s: the longest gap that
    a move left in the stream. hedge: what a second placement beside the first came to: won (it gave
    the answer), lost, failed, cancelled; empty: there was none.
    prefill_device_s, decode_device_s: its shares of its workers' steps, over all attempts.
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
    outcome: str = ""
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    predicted: Forecast | None = None
    candidates: tuple[CandidateTrace, ...] = ()
    moves: int = 0
    pause_s: float = 0.0
    arrived_s: float = 0.0
    admitted_s: float = 0.0
    total_s: float = 0.0
    tenant: str = ""
    model: str = ""
    priority: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    ttft_slo_s: float = 0.0
    tpot_slo_s: float = 0.0
    prefill_device_s: float = 0.0
    decode_device_s: float = 0.0
    hedge: str = ""

    def prediction_errors_s(self) -> dict[str, float]:
        """Actual less predicted by stage, of what the request did once and undisturbed."""
        predicted = self.predicted
        if predicted is None or self.attempts != 1 or not self.ttft_s:
            return {}
        errors_s = {
            "ttft": self.ttft_s - self.placed_s - predicted.ttft_s,
            "queue": self.queue_s - predicted.queue_s,
            "prefill": self.prefill_s - predicted.prefill_s,
        }
        if self.num_output_tokens > 1:
            errors_s["tpot"] = self.tpot_s - predicted.tpot_s
        if self.kind == "remote" and self.transfer_s:
            errors_s["exposed"] = self.exposed_s - predicted.exposed_s
        return errors_s


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """The next tokens of the answer; the last one alone has a finish_reason and the trace.

    logprobs: one a token where the request asks for them, else empty. waiting: of the first tokens
    of a request that no worker was live for, how long it waited and for what.
    """

    tokens: tuple[int, ...]
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    trace: RequestTrace | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    waiting: str = ""
