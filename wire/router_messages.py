"""What the router's own service is asked and answers: one frozen dataclass each."""

from dataclasses import dataclass

from wire.messages import FinishReason, RequestTerms, TokenLogprobs

DEFAULT_ANSWER_TOKENS = 256


@dataclass(frozen=True, slots=True)
class PlaceCall:
    """Where may a request run that its caller carries? place_id is the caller's.

    prompt_tokens, or block_hashes and num_tokens without them. excluded: worker ids that have
    failed the request.
    """

    place_id: str
    prompt_tokens: tuple[int, ...] = ()
    block_hashes: tuple[int, ...] = ()
    num_tokens: int = 0
    max_tokens: int = DEFAULT_ANSWER_TOKENS
    priority: int = 0
    cache_salt: str = ""
    terms: RequestTerms = RequestTerms()
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """A worker of a placement. address: host:port of its Worker service."""

    worker_id: str
    epoch: int
    address: str


@dataclass(frozen=True, slots=True)
class PairForecast:
    """A pair that was weighed, with its prediction in seconds; prefill_worker may be empty."""

    prefill_worker: str
    decode_worker: str
    ttft_s: float
    tpot_s: float
    queue_s: float
    prefill_s: float
    fetch_s: float
    exposed_s: float
    cost: float


@dataclass(frozen=True, slots=True)
class PlaceReply:
    """prefill is None where decode does all. candidates: the chosen pair first; empty where the
    policy does not predict. ttl_s: after so long it is released by itself."""

    prefill: Placed | None
    decode: Placed
    kind: str
    explanation: str
    candidates: tuple[PairForecast, ...] = ()
    ttl_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GenerateDelta:
    """The next tokens; the last one alone has finish_reason, kind and workers."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    kind: str = ""
    prefill_worker: str = ""
    decode_worker: str = ""
