"""The messages between a gateway's router and a worker: one frozen record each.

A *leg* is one request on one worker. Its life on the wire:

    StartLeg -> LegAccepted -> [LegPublished] -> LegTokens* -> LegFinished | LegFailed
                                               (CancelLeg -> LegFinished CANCELLED)
"""

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from wire.errors import ErrorCode
from wire.kv import KVHandle

PROTOCOL_VERSION = 1


class Role(StrEnum):
    """Which phase a worker is asked for first; every worker can run both."""

    PREFILL = "prefill"
    DECODE = "decode"


class FinishReason(StrEnum):
    """How a leg ended."""

    STOP = "stop"
    LENGTH = "length"
    PREFILLED = "prefilled"  # a prefill-only leg has given its token; the answer goes on elsewhere
    CANCELLED = "cancelled"


class GrammarKind(StrEnum):
    """The language that a grammar is written in."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the text of an answer has to match, from its first token on."""

    kind: GrammarKind
    text: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 are off.

    logit_bias: (token, what is added to its logit). top_logprobs: how many of the likeliest tokens
    come with each token's log-probability; None: no log-probabilities at all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    max_tokens: int = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class RequestTerms:
    """Who asks and what was promised: the router's business, of which workers learn nothing.

    tenant, weight: who shares the cluster's work with the others, and how large a share it has.
    ttft_slo_s, tpot_slo_s: objectives of the time to the first token and of the mean time of a
    token; 0: the router's own. session: requests of one session run where its last one ran, as
    long as that is not much worse. model: only workers that serve it; empty: any.
    """

    tenant: str = ""
    weight: float = 1.0
    ttft_slo_s: float = 0.0
    tpot_slo_s: float = 0.0
    session: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One request as the router takes it: token ids in, token ids out.

    block_hashes: wire.block_hash.block_hashes(prompt_tokens, cache_salt), computed once.
    priority: lower numbers go first. Stop strings are the gateway's: it sees text, and cancels.
    traceparent: W3C's, of the span that the request is a part of; empty: none.
    keep_s: how long the blocks are wanted once the answer has ended; 0: no longer than any others.
    """

    request_id: str
    prompt_tokens: tuple[int, ...]
    sampling: SamplingParams
    block_hashes: tuple[int, ...]
    priority: int = 0
    cache_salt: str = ""
    terms: RequestTerms = RequestTerms()
    traceparent: str = ""
    keep_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StartLeg:
    """Run a request on this worker; output_tokens were already sent and are not sent again.

    prefill_only: publish the KV, give one token, finish with PREFILLED.
    handle: pull the prompt's KV from there; None: compute what the prefix cache does not hold.
    share: publish the full blocks that the prefix cache holds of prompt and output tokens, compute
    nothing, finish with PREFILLED; TRANSFER_FAILED where it holds none.
    waits: with a handle only; once the KV is here or the pull failed, wait for ContinueLeg.
    """

    leg_id: int
    request: GenerateRequest
    output_tokens: tuple[int, ...] = ()
    prefill_only: bool = False
    handle: KVHandle | None = None
    share: bool = False
    waits: bool = False


@dataclass(frozen=True, slots=True)
class CancelLeg:
    leg_id: int


@dataclass(frozen=True, slots=True)
class ContinueLeg:
    """Output tokens index .. index + len(tokens) are known: a leg that waits, or runs and has not
    come so far, goes on behind them.

    They follow the tokens that StartLeg gave, and may repeat some of them.
    """

    leg_id: int
    index: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of a session; the worker answers with a block snapshot and a report."""

    client_id: str
    protocol: int = PROTOCOL_VERSION
    reads_columns: bool = True  # tokens may come in columns


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """Asked for after a gap in the block events' sequence numbers."""


ClientFrame = Hello | StartLeg | CancelLeg | ContinueLeg | SnapshotRequest


@dataclass(frozen=True, slots=True)
class LegAccepted:
    """The leg holds a place in the worker's queue; cached tokens of the prompt are known."""

    leg_id: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class LegPublished:
    """The prompt's first chunk is scheduled; its KV can be pulled behind the watermark."""

    leg_id: int
    handle: KVHandle


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token's natural log-probability before bias, penalties and temperature, and the likeliest
    tokens of its position with theirs, descending."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class LegTokens(msgspec.Struct, frozen=True, gc=False):
    """Output tokens index .. index + len(tokens) of the request.

    logprobs: one a token where the request asks for them, else empty. device_s: the leg's share of
    its worker's steps up to these tokens; 0 where the worker tells none with them.

    No dataclass, of which one takes five times as long to make: gateways make one a token.
    """

    leg_id: int
    index: int
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    device_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LegTransferred:
    """The leg's KV arrived (failure empty) or did not and is recomputed here."""

    leg_id: int
    num_bytes: int
    transfer_s: float
    exposed_s: float
    transport: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class LegFinished:
    """The leg's one good end."""

    leg_id: int
    reason: FinishReason
    num_cached_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LegFailed:
    """The leg's one bad end."""

    leg_id: int
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class LegMove:
    """The worker would give this leg to another one; it goes on here until it is cancelled.

    only_to_room: to one with more room in its KV pool, else it stays.
    """

    leg_id: int
    reason: str
    only_to_room: bool = False


LegEvent = (
    LegAccepted | LegPublished | LegTokens | LegTransferred | LegFinished | LegFailed | LegMove
)


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """Full blocks that entered (stored) or left (removed) a worker's prefix cache, in order.

    host_stored: those that only its host tier holds from here on, `removed` where they were on the
    device. host_removed: those that leave that tier for nowhere. What is stored is on
    the device, whatever the host holds. Sequence numbers grow by one; a gap asks for a snapshot.
    Removals apply first.
    """

    sequence_number: int
    stored: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    host_stored: tuple[int, ...] = ()
    host_removed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockSnapshot:
    """Every block of the prefix cache as of `sequence_number`; host_stored: held by the host tier
    alone."""

    sequence_number: int
    stored: tuple[int, ...] = ()
    host_stored: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sums over all steps of a worker process; the difference of two is a sample of step costs.

    num_prefill_steps: those with prompt tokens in them. num_decode_tokens: sequences that each
    step decoded. num_context_tokens: what these held in KV. num_prefill_pairs: (p + c)^2 - p^2 for
    each chunk of c prompt tokens behind p that are in KV. step_s: from the end of the step before
    where one follows the other, so that the loop around the engine counts.
    """

    num_steps: int = 0
    num_prefill_steps: int = 0
    step_s: float = 0.0
    num_decode_tokens: int = 0
    num_context_tokens: int = 0
    num_prefill_tokens: int = 0
    num_prefill_pairs: int = 0


@dataclass(frozen=True, slots=True)
class HostLoad:
    """The second tier of a worker's prefix cache, in its host's memory; without one, no blocks.

    block_s: what a block takes on its way back to the device, as measured; 0: not yet. The rest are
    sums over the worker's life: tokens that came back, and sequences whose prompt began in a tier.
    """

    num_blocks: int = 0
    num_used_blocks: int = 0
    block_s: float = 0.0
    num_restored_tokens: int = 0
    num_device_hits: int = 0
    num_host_hits: int = 0


NO_HOST = HostLoad()


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """A worker's own account of its load, sent at least every 250 ms; its absence means hung."""

    role: Role
    num_steps: int = 0
    has_work: bool = False
    draining: bool = False
    num_running: int = 0
    num_waiting: int = 0
    waiting_tokens: int = 0  # prompt tokens admitted but not computed, cached ones left out
    num_blocks: int = 0
    num_free_blocks: int = 0  # unreferenced: free or evictable
    context_tokens: int = 0  # tokens in KV of all running sequences
    num_exports: int = 0
    num_imports: int = 0
    step_s: float = 0.0  # the last step's duration
    progress: int = 0  # layers computed so far: it moves within a long step
    totals: StepTotals = StepTotals()
    role_epoch: int = 0  # grows with each change of the role
    flipping: bool = False  # legs of the role before are still running
    host: HostLoad = NO_HOST


@dataclass(frozen=True, slots=True)
class WorkerFrame:
    """One message per step and gateway: the events of all of its legs, and what rides along."""

    events: tuple[LegEvent, ...] = ()
    report: WorkerReport | None = None
    block_events: tuple[BlockEvent, ...] = field(default=())
    snapshot: BlockSnapshot | None = None
