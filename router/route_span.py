"""The router's span of a request: under it are those of the workers."""

from collections.abc import AsyncGenerator

from router.output import OutputDelta, RequestTrace
from router.relay import Relay
from runtime.tracing import Attributes, Tracer

_ANSWERED = ("stop", "length")


async def traced(relay: Relay, tracer: Tracer) -> AsyncGenerator[OutputDelta, None]:
    """As relay.run(), within a span that the request's legs belong to."""
    span = tracer.begin("route", relay.request.traceparent)
    relay.belongs_to(span.traceparent)
    deltas = relay.run()
    try:
        async for delta in deltas:
            yield delta
    finally:
        await deltas.aclose()
        trace = relay.trace()
        span.end(_attributes(trace), "" if trace.outcome in _ANSWERED else trace.outcome)


def _attributes(trace: RequestTrace) -> Attributes:
    return {
        "baton.placement": trace.kind,
        "baton.prefill_worker": trace.prefill_worker,
        "baton.decode_worker": trace.decode_worker,
        "baton.attempts": trace.attempts,
        "baton.moves": trace.moves,
        "baton.hedge": trace.hedge,
        "baton.admitted_s": trace.admitted_s,
        "baton.placed_s": trace.placed_s,
        "baton.queue_s": trace.queue_s,
        "baton.ttft_s": trace.ttft_s,
    }
