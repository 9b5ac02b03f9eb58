"""The result of a run, as it is kept in files and compared."""

import msgspec


class Distribution(msgspec.Struct, frozen=True):
    """Of a set of times, in milliseconds; all zero for an empty set (count tells)."""

    count: int = 0
    mean: float = 0.0
    std: float = 0.0
    min: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class GroupSummary(msgspec.Struct, frozen=True):
    """The requests of one class, or all, whose intended start lies in the window.

    Latencies are of successes, from the intended start. Rates are per second of the window:
    request_throughput and tokens by when they ended and came, goodput by intended start.
    attainment: share of all requests that met their objective, errors counted as misses.
    """

    num_requests: int
    num_ok: int
    num_good: int
    attainment: float
    goodput: float
    request_throughput: float
    output_throughput: float
    input_throughput: float
    num_input_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    mean_concurrency: float
    ttft: Distribution
    tpot: Distribution
    itl: Distribution
    e2el: Distribution
    stall: Distribution
    ttft_from_send: Distribution
    e2el_from_send: Distribution
    errors: dict[str, int] = {}


class StageSummary(msgspec.Struct, frozen=True):
    """How Baton served them. requests_by_pair: `prefill -> decode` to a count of successes.

    decode is the client's: from the first event with text to the last.
    """

    requests_by_pair: dict[str, int] = {}
    requests_by_kind: dict[str, int] = {}
    queue: Distribution = Distribution()
    prefill: Distribution = Distribution()
    transfer: Distribution = Distribution()
    exposed: Distribution = Distribution()
    decode: Distribution = Distribution()

    @property
    def named(self) -> tuple[tuple[str, Distribution], ...]:
        """In the order in which a request goes through them."""
        transfers = (("transfer", self.transfer), ("exposed transfer", self.exposed))
        return (
            ("queue", self.queue),
            ("prefill", self.prefill),
            *transfers,
            ("decode", self.decode),
        )


class Bucket(msgspec.Struct, frozen=True):
    """One stretch of the run. Requests count by intended start; tokens by arrival."""

    start_s: float
    num_requests: int
    num_good: int
    num_failed: int
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float


class ServerSample(msgspec.Struct, frozen=True):
    """The server's own metrics at one time, by series name with its labels."""

    at_s: float
    values: dict[str, float]


class FaultOutcome(msgspec.Struct, frozen=True):
    """What a fault did. recovery_s: from the fault until requests did as well as before it.

    None: they did not, within the run. back_s: until the process was a live worker again.
    """

    what: str
    at_s: float
    victim: str
    num_in_flight: int
    num_failed: int
    longest_stall_ms: float
    attainment_before: float
    recovery_s: float | None
    back_s: float | None = None
    problem: str = ""


class Requests(msgspec.Struct, frozen=True):
    """Columns of the window's requests, for compare and the plots. None: no such time."""

    intended_s: list[float] = []
    ttft_ms: list[float | None] = []
    tpot_ms: list[float | None] = []
    e2el_ms: list[float | None] = []
    stall_ms: list[float | None] = []
    is_ok: list[bool] = []
    is_good: list[bool] = []


class RunFacts(msgspec.Struct, frozen=True):
    """What was run, where and when. window_s: start and end of the steady part."""

    date: str
    url: str
    model: str
    style: str
    workload: str
    notes: tuple[str, ...]
    seed: int
    slo: str
    num_planned: int
    duration_s: float
    window_s: tuple[float, float]
    num_processes: int
    max_lag_ms: float
    host: dict[str, str] = {}
    command: str = ""


class RunResult(msgspec.Struct, frozen=True):
    """A whole run. invalid: why its figures must not be used; empty when they may.

    busiest_share: CPU of the busiest generator, as a share of one core.
    """

    facts: RunFacts
    invalid: tuple[str, ...]
    warnings: tuple[str, ...]
    is_partial: bool
    num_sent: int
    num_unsent: int
    lag: Distribution
    busiest_share: float
    num_connections: int
    overall: GroupSummary
    by_class: dict[str, GroupSummary]
    stages: StageSummary
    timeline: tuple[Bucket, ...]
    requests: Requests
    itl_sample_ms: tuple[float, ...] = ()
    server: tuple[ServerSample, ...] = ()
    faults: tuple[FaultOutcome, ...] = ()

    @property
    def offered_rate(self) -> float:
        """Requests a second of the window, whatever became of them."""
        start_s, end_s = self.facts.window_s
        return self.overall.num_requests / max(end_s - start_s, 1e-9)
