"""What an operator can choose about the router."""

from dataclasses import dataclass

DEFAULT_TTFT_SLO_MS = 2000.0
DEFAULT_TPOT_SLO_MS = 50.0


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """One router's settings; the gateway builds it once.

    client_id: names this router to workers and control plane, and seeds its random ties.
    profile: whose step times predictors begin with, as profiles.catalog takes it; empty: they are
    cold until they have seen steps.
    ttft_slo_ms: objective of the time to the first token of prompts up to ttft_slo_tokens, and
    ttft_slo_token_ms more for each token over them. tpot_slo_ms: of the mean time of a token.
    max_under_way, max_queued: requests past admission, and waiting for it, max_queue_wait_s at
    most. hold_share: of the objective of the first token, how long a prompt may wait at the least
    loaded worker before requests wait for admission instead. reject_ratio: predicted latency over
    its objective from which a request is refused; 0: none is; below 0: 1 where the request or the
    operator states an objective, 3 where they are the defaults. max_traces: ended requests that
    are remembered. trace_log: a file for all of them as JSON lines, of trace_log_bytes at most
    before it is turned over; empty: none. recording: a file for what reaches placement, in order,
    up to recording_bytes, for `baton simulate --replay`; empty: none. outside_ttl_s: after which a
    placement that somebody else carries out counts as released. session_ttl_s: how long a
    session's worker is remembered. redis_url: of the Redis through which this router and its
    replicas share loads and placements; empty: it is alone. shadow_policies: parted by ";",
    each asked about shadow_share of the placements beside the live one. breaker_failures: of a
    worker within breaker_window_s, after which it rests as long.
    heartbeat_timeout_s, step_timeout_s: a worker that sends nothing, or has work and makes no
    step, for this long is lost. max_attempts: placements of one request. worker_wait_s: how long
    a request waits for a first live worker. local_prefill_max_tokens: a decode worker computes
    an uncached rest up to this itself. rescue_s: how long a decode worker may stay silent after
    the prefill worker that it pulls from was lost. hedge: times the p95 of its forecast that a
    first token may take, hedge_min_ms at least, before its request is placed once more on other
    workers; 0: none is. hedge_share: of the requests, that may be placed so. coalesce_ms: tokens of
    an answer that come this soon behind others wait for each other; 0: none waits. relist_grace_s:
    how long workers are kept that a control plane does not list after it (re)connected.
    """

    control_address: str
    client_id: str
    cluster_token: str = ""
    policy: str = "predicted"
    profile: str = ""
    heartbeat_timeout_s: float = 2.5
    step_timeout_s: float = 4.5
    max_attempts: int = 4
    worker_wait_s: float = 15.0
    local_prefill_max_tokens: int = 16
    ttft_slo_ms: float = DEFAULT_TTFT_SLO_MS
    ttft_slo_tokens: int = 2000
    ttft_slo_token_ms: float = 1.0
    tpot_slo_ms: float = DEFAULT_TPOT_SLO_MS
    max_under_way: int = 16_384
    max_queued: int = 1024
    max_queue_wait_s: float = 60.0
    hold_share: float = 0.25
    reject_ratio: float = -1.0
    max_traces: int = 1024
    trace_log: str = ""
    trace_log_bytes: int = 64 << 20
    recording: str = ""
    recording_bytes: int = 1 << 30
    outside_ttl_s: float = 600.0
    session_ttl_s: float = 600.0
    redis_url: str = ""
    shadow_policies: str = ""
    shadow_share: float = 0.1
    breaker_failures: int = 5
    breaker_window_s: float = 30.0
    speculative_ttl_s: float = 2.0
    max_prefix_blocks: int = 1 << 18  # per worker
    rescue_s: float = 2.0
    hedge: float = 0.0
    hedge_min_ms: float = 200.0
    hedge_share: float = 0.05
    coalesce_ms: float = 0.0
    relist_grace_s: float = 5.0
    retry_min_s: float = 0.05
    retry_max_s: float = 0.5
    reconnect_min_s: float = 0.05
    reconnect_max_s: float = 1.0

    @property
    def states_slos(self) -> bool:
        """The operator chose an objective; the defaults are nobody's wish."""
        defaults = DEFAULT_TTFT_SLO_MS, DEFAULT_TPOT_SLO_MS
        return (self.ttft_slo_ms, self.tpot_slo_ms) != defaults
