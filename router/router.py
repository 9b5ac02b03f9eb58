"""The router as its host sees it: requests in, tokens out, over the live workers."""

import itertools
import math
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from random import Random

from router.admission import Admission
from router.candidates import ClusterView, RouterSnapshot
from router.config import RouterConfig
from router.core import build_core
from router.hedges import Hedges
from router.no_worker import awaited_text
from router.output import OutputDelta, RequestTrace
from router.outside import OutsidePlacements
from router.parts import LIVE_PARTS, Parts
from router.placement import Placement
from router.policies.policy import RequestFacts
from router.relay import Relay
from router.relay_parts import RelayParts
from router.replica import Replica, SharedState, note_of
from router.route_span import traced
from router.saturation import Saturation, saturation
from router.shadow import Shadows
from router.trace_log import TraceLog
from router.traces import NamedTrace, Traces
from runtime.clock import Clock, wall_time_s
from runtime.metrics import Metrics
from runtime.tracing import Tracer
from wire.errors import BatonError, ErrorCode
from wire.messages import GenerateRequest
from wire.router_messages import PlaceReply

_LOOK_EVERY_S = 0.01


class Router:
    """Wires watch, sessions, prefix map and placement; lives in its host's event loop."""

    def __init__(
        self,
        config: RouterConfig,
        clock: Clock,
        metrics: Metrics,
        parts: Parts = LIVE_PARTS,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._leg_ids = itertools.count(1)
        core = self._core = build_core(config, clock, metrics, parts, self._placed)
        self._sessions, self._breaker, self._placer = core.sessions, core.breaker, core.placer
        self._admission = Admission(
            config.max_under_way,
            config.max_queued,
            clock,
            metrics,
            self._look,
            config.max_queue_wait_s,
        )
        self._looked_s = -math.inf
        self._saturation = Saturation()
        self._hedges = Hedges(
            config.hedge,
            config.hedge_min_ms / 1e3,
            config.hedge_share,
            lambda: self.num_under_way,
            lambda: self._look().level,
            metrics,
        )
        self.outside = OutsidePlacements(
            self._sessions, self._leg_ids.__next__, config.outside_ttl_s
        )
        self._trace_log = _trace_log(config, metrics)
        tell = None if self._trace_log is None else self._trace_log.put
        self._traces = Traces(config.max_traces, metrics, tell)
        self._shadows = _shadows(config, metrics)
        self._shared = self._shared_state() if config.redis_url else None
        self._watch = parts.watch(config, self._sessions.update)
        self._relay_parts = self._shared_by_relays()

    @property
    def num_under_way(self) -> int:
        """Requests that were admitted and have not ended."""
        return self._admission.num_under_way

    async def start(self) -> None:
        """Follows the control plane from here on; workers join as they are found."""
        self._sessions.start()
        self._watch.start()
        if self._shared is not None:
            self._shared.start()

    async def stop(self) -> None:
        """Leaves all workers; requests still under way end with UNAVAILABLE."""
        if self._core.recorder is not None:
            self._core.recorder.close()
        if self._shared is not None:
            await self._shared.stop()
        await self._watch.stop()
        await self._sessions.stop()
        if self._trace_log is not None:
            self._trace_log.close()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[OutputDelta, None]:
        """The answer to one request, token by token.

        aclose() or cancellation ends both legs at once. Raises BatonError before or while
        streaming: INVALID_REQUEST, CONTEXT_LENGTH_EXCEEDED, OVERLOADED, UNAVAILABLE.
        """
        if not request.prompt_tokens:
            raise BatonError(ErrorCode.INVALID_REQUEST, "the prompt has no tokens", param="prompt")
        if request.sampling.max_tokens < 1:
            raise BatonError(
                ErrorCode.INVALID_REQUEST, "max_tokens must be at least 1", param="max_tokens"
            )
        relay = Relay(request, self._relay_parts)
        if self._tracer is not None:
            return traced(relay, self._tracer)
        return relay.run()

    def place_outside(
        self, place_id: str, request: GenerateRequest, excluded: Sequence[str] = ()
    ) -> PlaceReply:
        """A pair for a request that the caller carries itself; it counts until its release.

        Raises BatonError: INVALID_REQUEST for an id in use, OVERLOADED, UNAVAILABLE.
        """
        self.outside.check_free(place_id, self._clock.now())
        names = frozenset(
            (session.info.worker_id, session.info.epoch)
            for session in self._sessions.all()
            if session.info.worker_id in excluded
        )
        placed = self._placer.place(request, 0, names)
        if placed is None:
            raise BatonError(ErrorCode.UNAVAILABLE, "no worker is live", retry_after_s=1.0)
        self._metrics.counter("baton_placements_total", kind=placed[0].kind.value).inc()
        return self.outside.reserve(place_id, *placed, self._clock.now())

    def snapshot(self) -> RouterSnapshot:
        """The workers as the router sees them."""
        sessions = self._sessions.all()
        lengths = [session.info.max_model_len for session in sessions]
        return RouterSnapshot(
            tuple(session.view() for session in sessions),
            min(lengths, default=0),
            self._watch.is_connected,
            self._watch.serving,
        )

    def trace(self, request_id: str) -> RequestTrace | None:
        """How a request ran that has ended lately; None for any other."""
        return self._traces.get(request_id)

    def recent_traces(self, count: int, slowest: bool = False) -> list[NamedTrace]:
        """The last requests that have ended, or the slowest of those that are remembered."""
        return self._traces.slowest(count) if slowest else self._traces.latest(count)

    def _placed(
        self, placement: Placement, facts: RequestFacts, view: ClusterView, session: str
    ) -> None:
        """A decision has been made: the shadows judge it, and the replicas hear of it."""
        if self._shadows is not None:
            self._shadows.placed(placement, facts, view)
        if self._shared is not None:
            workers = {placement.decode, placement.prefill or placement.decode}
            epochs = {name: self._sessions.get(name).info.epoch for name in workers}
            self._shared.told(note_of(placement, facts, session, epochs))

    def _shared_by_relays(self) -> RelayParts:
        return RelayParts(
            self._config,
            self._sessions,
            self._placer,
            self._clock,
            Random(f"{self._config.client_id} retries"),  # ties of placements have their own
            self._metrics,
            self._leg_ids.__next__,
            self._admission,
            self._breaker,
            self._traces,
            lambda waited_s: awaited_text(waited_s, self._watch.pools),
            self._hedges,
        )

    def _shared_state(self) -> SharedState:
        """Raises ValueError for a URL that is none of Redis."""
        from router.redis_state import RedisState  # only where one is used

        replica = Replica(
            self._sessions.own_shares,
            self._sessions.set_elsewhere,
            lambda note, age_s: self._core.notes.take(note, age_s, self._clock.now()),
        )
        config = self._config
        return RedisState(config.redis_url, config.client_id, replica, self._clock, self._metrics)

    def _look(self) -> Saturation:
        """How full the cluster is, as of the last few milliseconds."""
        now_s = self._clock.now()
        if now_s - self._looked_s > _LOOK_EVERY_S:
            self._looked_s = now_s
            ttft_slo_s = self._config.ttft_slo_ms / 1e3
            tpot_slo_s = self._config.tpot_slo_ms / 1e3
            hold_s = self._config.hold_share * ttft_slo_s
            self._saturation = saturation(self._sessions.view(), ttft_slo_s, tpot_slo_s, hold_s)
            self._metrics.gauge("baton_saturation_ratio").set(self._saturation.level)
        return self._saturation

    def check_integrity(self) -> None:
        """Raises AssertionError when sessions, loads or the prefix map are inconsistent."""
        self._sessions.check_integrity()
        self._admission.check_integrity()
        self._hedges.check_integrity()


def _trace_log(config: RouterConfig, metrics: Metrics) -> TraceLog | None:
    """Raises TraceLogError for a file that cannot be written."""
    if not config.trace_log:
        return None
    dropped = metrics.counter("baton_traces_dropped_total")
    return TraceLog(Path(config.trace_log), config.trace_log_bytes, wall_time_s, dropped.inc)


def _shadows(config: RouterConfig, metrics: Metrics) -> Shadows | None:
    """Raises ValueError for a policy that does not exist."""
    names = [name.strip() for name in config.shadow_policies.split(";") if name.strip()]
    if not names:
        return None
    rng = Random(f"{config.client_id} shadow")
    local_max = config.local_prefill_max_tokens
    return Shadows(names, config.shadow_share, local_max, rng, metrics)
