"""The gateway's metrics, bound once, and the measuring of one request."""

from gateway.rate_limit import Account
from gateway.spans import operation_of, span_attributes
from gateway.usage import UsageLog, UsageMeter, Used
from runtime.clock import Clock
from runtime.metrics import Metrics
from runtime.tracing import Span, Tracer


class GatewayMeter:
    """Looks the metrics up once for all requests."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Clock,
        usage_log: UsageLog | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._metrics = metrics
        self.tracer = tracer
        self.usage = UsageMeter(metrics, usage_log)
        self.clock = clock
        self.in_flight = metrics.gauge("baton_requests_in_flight")
        self.ttft = metrics.histogram("baton_ttft_seconds")
        self.itl = metrics.histogram("baton_itl_seconds")
        self.e2e = metrics.histogram("baton_e2e_seconds")
        self.accepted = metrics.counter("baton_requests_accepted_total")
        self.prompt_tokens = metrics.counter("baton_prompt_tokens_total")
        self.cached_tokens = metrics.counter("baton_cached_tokens_total")
        self.output_tokens = metrics.counter("baton_output_tokens_total")

    def open(self, endpoint: str) -> "RequestMeter":
        return RequestMeter(self, endpoint)

    def count(self, endpoint: str, outcome: str) -> None:
        self._metrics.counter("baton_requests_total", endpoint=endpoint, outcome=outcome).inc()


class RequestMeter:
    """One request: opened at its arrival, accepted once valid, ended exactly once."""

    def __init__(self, meter: GatewayMeter, endpoint: str) -> None:
        self._meter = meter
        self._endpoint = endpoint
        self._start_s = meter.clock.now()
        self._last_s: float | None = None
        self._is_accepted = False
        self._account: Account | None = None
        self._used: Used | None = None
        self._span: Span | None = None
        self._request_id = ""

    def trace(self, request_id: str, traceparent: str) -> str:
        """Begins the request's span, where spans are wanted; gives the traceparent for what runs
        below the gateway."""
        tracer = self._meter.tracer
        if tracer is None:
            return traceparent
        self._request_id = request_id
        self._span = tracer.begin(operation_of(self._endpoint), traceparent, is_server=True)
        return self._span.traceparent

    def accept(self, num_prompt_tokens: int, account: Account) -> None:
        """account: pays for the answer's tokens."""
        self._is_accepted = True
        self._account = account
        self._meter.in_flight.inc()
        self._meter.accepted.inc()
        self._meter.prompt_tokens.inc(num_prompt_tokens)

    def tokens(self, num_tokens: int) -> None:
        """Tokens that are about to be sent, or are ready where the answer goes out whole."""
        if not num_tokens:
            return
        now_s = self._meter.clock.now()
        if self._last_s is None:
            self._meter.ttft.observe(now_s - self._start_s)
        else:
            self._meter.itl.observe(now_s - self._last_s)
        self._last_s = now_s
        self._meter.output_tokens.inc(num_tokens)
        if self._account is not None:
            self._account.spend_tokens(num_tokens)

    def cached(self, num_tokens: int) -> None:
        """Prompt tokens found in a prefix cache; called once an answer."""
        self._meter.cached_tokens.inc(num_tokens)

    def used(self, used: Used) -> None:
        """What the request took, whole or not; called once, before its end."""
        self._used = used

    def end(self, outcome: str) -> None:
        if self._used is not None and self._account is not None:
            tenant = self._account.tenant.name
            self._meter.usage.take(tenant, self._endpoint, outcome, self._used)
        self._meter.count(self._endpoint, outcome)
        if self._span is not None:
            error = "" if outcome == "ok" else outcome
            shown = span_attributes(self._endpoint, self._request_id, self._used)
            self._span.end(shown, error)
        if self._is_accepted:
            self._meter.in_flight.dec()
            self._meter.e2e.observe(self._meter.clock.now() - self._start_s)
