"""What the gateways counted, whoever brings the numbers: a scrape or a Prometheus server."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from control_plane.planner.types import PoolFigures, Traffic

ACCEPTED = "baton_requests_accepted_total"
ANSWERS = "baton_answers_total"
OUTPUT = "baton_answer_tokens_total"
CACHED = "baton_answer_cached_tokens_total"
UNCACHED = "baton_uncached_tokens_total"
SQUARES = "baton_uncached_token_squares_total"
PAIRS = "baton_prefill_pairs_total"
CONTEXT = "baton_context_token_steps_total"
COUNTERS = (ACCEPTED, ANSWERS, OUTPUT, CACHED, UNCACHED, SQUARES, PAIRS, CONTEXT)
WAITING = "baton_requests_without_worker"
RATIO = "baton_slo_ratio_bucket"


@dataclass(frozen=True, slots=True)
class Reading:
    """The traffic and each pool's own latencies. output_tokens_per_s: all that clients got."""

    traffic: Traffic
    prefill: PoolFigures = PoolFigures()
    decode: PoolFigures = PoolFigures()
    output_tokens_per_s: float = math.nan


class ReadingError(Exception):
    """Nobody could be asked; the message says who and why."""


class TrafficSource(Protocol):
    """Two implementations: Scrape and PrometheusServer."""

    async def read(self) -> Reading:
        """Raises ReadingError."""

    async def close(self) -> None:
        """Ends connections."""


def traffic_of(
    rates: Mapping[str, float], num_waiting: int, age_s: float, before: Traffic | None
) -> Traffic:
    """rates: growth a second of COUNTERS. Without an answer in the window, the lengths of `before`
    stand for those that are on their way."""
    answers = rates.get(ANSWERS, 0.0)
    accepted = rates.get(ACCEPTED, answers)
    if answers <= 0:
        known = before or Traffic()
        return Traffic(
            accepted,
            known.uncached_tokens,
            known.uncached_squares,
            known.uncached_pairs,
            known.cached_tokens,
            known.output_tokens,
            known.context_tokens,
            num_waiting,
            age_s,
        )
    output = rates.get(OUTPUT, 0.0)
    return Traffic(
        requests_per_s=accepted,
        uncached_tokens=rates.get(UNCACHED, 0.0) / answers,
        uncached_squares=rates.get(SQUARES, 0.0) / answers,
        uncached_pairs=rates.get(PAIRS, 0.0) / answers,
        cached_tokens=rates.get(CACHED, 0.0) / answers,
        output_tokens=output / answers,
        context_tokens=rates.get(CONTEXT, 0.0) / output if output else 0.0,
        num_waiting=num_waiting,
        age_s=age_s,
    )
