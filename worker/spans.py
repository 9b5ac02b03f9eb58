"""The spans of a worker's legs: prefill, transfer and decode, under the router's span."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.tracing import Attributes, Tracer
from wire.messages import (
    ClientFrame,
    LegAccepted,
    LegEvent,
    LegFailed,
    LegFinished,
    LegTokens,
    LegTransferred,
    StartLeg,
)


@dataclass(slots=True)
class _Leg:
    start: StartLeg
    begun_s: float  # its current stage
    num_tokens: int = 0
    num_cached_tokens: int = 0


class LegSpans:
    """Follows what a session asks for and is told; legs without a traceparent leave no trace."""

    def __init__(self, tracer: Tracer, worker_id: str, wall_time_s: Callable[[], float]) -> None:
        self._tracer = tracer
        self._worker_id = worker_id
        self._now_s = wall_time_s
        self._legs: dict[tuple[int, int], _Leg] = {}

    def asked(self, session_id: int, frame: ClientFrame) -> None:
        if isinstance(frame, StartLeg) and frame.request.traceparent:
            self._legs[session_id, frame.leg_id] = _Leg(frame, self._now_s())

    def told(self, session_id: int, events: Sequence[LegEvent]) -> None:
        if not self._legs:
            return
        for event in events:
            leg = self._legs.get((session_id, event.leg_id))
            if leg is not None:
                self._note(leg, event)
                if isinstance(event, LegFinished | LegFailed):
                    del self._legs[session_id, event.leg_id]

    def left(self, session_id: int) -> None:
        """A session has ended, and its legs with it."""
        self._legs = {key: leg for key, leg in self._legs.items() if key[0] != session_id}

    def _note(self, leg: _Leg, event: LegEvent) -> None:
        match event:
            case LegAccepted():
                leg.num_cached_tokens = event.num_cached_tokens
            case LegTransferred():
                self._transferred(leg, event)
            case LegTokens():
                if not leg.num_tokens and leg.start.handle is None and not leg.start.share:
                    self._prefilled(leg)
                leg.num_tokens += len(event.tokens)
            case LegFinished():
                self._ended(leg, event.reason.value)
            case LegFailed():
                self._ended(leg, event.code.value)

    def _transferred(self, leg: _Leg, event: LegTransferred) -> None:
        now_s = self._now_s()
        shown: Attributes = {
            "baton.transport": event.transport,
            "baton.transfer_bytes": event.num_bytes,
            "baton.exposed_s": event.exposed_s,
            "baton.transfer_failure": event.failure,
        }
        self._record(leg, "transfer", now_s - event.transfer_s, shown)

    def _prefilled(self, leg: _Leg) -> None:
        """The first token ends the prompt's computing, its wait for a step included."""
        request = leg.start.request
        tokens: Attributes = {
            "gen_ai.usage.input_tokens": len(request.prompt_tokens),
            "gen_ai.usage.cache_read.input_tokens": leg.num_cached_tokens,
        }
        self._record(leg, "prefill", leg.begun_s, tokens)

    def _ended(self, leg: _Leg, reason: str) -> None:
        if leg.start.prefill_only or leg.start.share:
            return
        attributes: Attributes = {
            "gen_ai.usage.output_tokens": leg.num_tokens,
            "baton.finish_reason": reason,
        }
        self._record(leg, "decode", leg.begun_s, attributes)

    def _record(self, leg: _Leg, name: str, start_s: float, attributes: Attributes) -> None:
        """The stage that follows begins where this one ends."""
        now_s = self._now_s()
        own = {
            "baton.worker.id": self._worker_id,
            "baton.request.id": leg.start.request.request_id,
        }
        self._tracer.record(
            name, leg.start.request.traceparent, start_s, now_s, {**own, **attributes}
        )
        leg.begun_s = now_s
