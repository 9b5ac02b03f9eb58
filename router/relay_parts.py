"""What all requests of one router share."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from router.admission import Admission
from router.breaker import CircuitBreaker
from router.config import RouterConfig
from router.hedges import Hedges
from router.placer import Placer
from router.sessions import Sessions
from router.traces import Traces
from runtime.clock import Clock
from runtime.metrics import Metrics


@dataclass(frozen=True, slots=True)
class RelayParts:
    """rng: of the pauses between attempts. awaited: what a request without a worker waits for, from
    the seconds that it has waited."""

    config: RouterConfig
    sessions: Sessions
    placer: Placer
    clock: Clock
    rng: Random
    metrics: Metrics
    next_leg_id: Callable[[], int]
    admission: Admission
    breaker: CircuitBreaker
    traces: Traces
    awaited: Callable[[float], str]
    hedges: Hedges
