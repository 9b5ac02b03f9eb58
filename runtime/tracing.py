"""Spans of OpenTelemetry, sent to a collector; the SDK is loaded only where there is one."""

from collections.abc import Mapping
from typing import Any, Protocol

from runtime.clock import wall_time_s

Attributes = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """A span under way. traceparent: W3C's, for those below it."""

    @property
    def traceparent(self) -> str: ...

    def end(self, attributes: Attributes, error: str = "") -> None:
        """error: what went wrong, in a word; empty: nothing. Called once."""
        ...


class Tracer(Protocol):
    """Where a process's spans go."""

    def begin(self, name: str, parent: str, *, is_server: bool = False) -> Span:
        """A span from now on. parent: a traceparent; empty: the span begins a trace."""
        ...

    def record(
        self, name: str, parent: str, start_s: float, end_s: float, attributes: Attributes
    ) -> None:
        """A span that is over; times in seconds since 1970."""
        ...

    def close(self) -> None:
        """Sends what waits; blocks for up to some seconds."""
        ...


def open_tracer(endpoint: str, service: str, instance: str, share: float = 1.0) -> Tracer | None:
    """None without an endpoint, a URL such as http://HOST:4317 that takes OTLP over gRPC.

    share: of the traces that begin here; those of clients are sampled as the clients say.
    Raises ValueError where the SDK is not installed.
    """
    if not endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        message = (
            f"otlp_endpoint needs the extra `tracing`: pip install baton-serve[tracing] ({error})"
        )
        raise ValueError(message) from error
    is_plain = not endpoint.startswith("https://")
    return OtelTracer(OTLPSpanExporter(endpoint, insecure=is_plain), service, instance, share)


class OtelTracer:
    """Spans of the OpenTelemetry SDK, exported in batches from a thread of its own."""

    def __init__(self, exporter: Any, service: str, instance: str, share: float = 1.0) -> None:
        """exporter: a SpanExporter of the SDK."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource({"service.name": service, "service.instance.id": instance})
        sampler = ParentBased(TraceIdRatioBased(share))
        self._provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("baton")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, parent: str, *, is_server: bool = False) -> Span:
        from opentelemetry.trace import SpanKind

        kind = SpanKind.SERVER if is_server else SpanKind.INTERNAL
        span = self._tracer.start_span(name, self._context(parent), kind, start_time=_now_ns())
        return _OtelSpan(span)

    def record(
        self, name: str, parent: str, start_s: float, end_s: float, attributes: Attributes
    ) -> None:
        span = self._tracer.start_span(
            name, self._context(parent), attributes=dict(attributes), start_time=_ns(start_s)
        )
        span.end(_ns(end_s))

    def close(self) -> None:
        self._provider.shutdown()

    def _context(self, parent: str) -> Any:
        from opentelemetry.context import Context

        return self._propagator.extract({"traceparent": parent}, Context())


class _OtelSpan:
    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, attributes: Attributes, error: str = "") -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attributes(dict(attributes))
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end(_now_ns())


def _now_ns() -> int:
    return _ns(wall_time_s())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
