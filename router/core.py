"""The parts of a router that decide where requests run, wired alike live, recorded and replayed."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from router.breaker import CircuitBreaker
from router.candidates import ClusterView
from router.config import RouterConfig
from router.parts import Parts
from router.placement import Placement
from router.placer import Placer
from router.policies.policy import RequestFacts
from router.prospects import Prospects
from router.recorded import (
    RecordedBreaker,
    RecordedHomes,
    RecordedNotes,
    RecordedPlacer,
    RecordedSessions,
    Recorder,
)
from router.replica import ReplicaNotes
from router.sessions import Sessions
from runtime.clock import Clock
from runtime.metrics import Metrics

Tell = Callable[[Placement, RequestFacts, ClusterView, str], None]


@dataclass(frozen=True, slots=True)
class Core:
    """Whoever builds it stops the sessions and closes the recorder."""

    sessions: Sessions
    breaker: CircuitBreaker
    placer: Placer
    notes: ReplicaNotes
    recorder: Recorder | None = None


def build_core(
    config: RouterConfig, clock: Clock, metrics: Metrics, parts: Parts, tell: Tell | None = None
) -> Core:
    """Raises ValueError for a policy or profile that does not exist, RecordingError for a bad
    recording."""
    if config.recording:
        return _recorded(config, Recorder(config, clock), metrics, parts, tell)
    prefix_map = parts.new_prefix_map(config.max_prefix_blocks)
    sessions = Sessions(config, clock, metrics, prefix_map, parts)
    window_s = config.breaker_window_s
    breaker = CircuitBreaker(config.breaker_failures, window_s, window_s)
    rng, prospects = Random(config.client_id), Prospects(config.reject_ratio)
    placer = Placer(config, sessions, prefix_map, clock, rng, breaker, prospects, tell)
    notes = ReplicaNotes(prefix_map, placer.homes, config.speculative_ttl_s)
    return Core(sessions, breaker, placer, notes)


def _recorded(
    config: RouterConfig, recorder: Recorder, metrics: Metrics, parts: Parts, tell: Tell | None
) -> Core:
    """The same, at the recorder's time."""
    prefix_map = parts.new_prefix_map(config.max_prefix_blocks)
    sessions = RecordedSessions(recorder, config, recorder, metrics, prefix_map, parts)
    window_s = config.breaker_window_s
    breaker = RecordedBreaker(recorder, config.breaker_failures, window_s, window_s)
    rng, prospects = Random(config.client_id), Prospects(config.reject_ratio)
    homes = RecordedHomes(config.session_ttl_s)
    placer = RecordedPlacer(
        recorder, config, sessions, prefix_map, recorder, rng, breaker, prospects, tell, homes
    )
    notes = RecordedNotes(recorder, prefix_map, placer.homes, config.speculative_ttl_s)
    return Core(sessions, breaker, placer, notes, recorder)
