"""What the gateways counted, whoever brings the numbers: a scrape or a Prometheus server."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from control_plane.planner.types import PoolFigures, Traffic

ACCEPTED = "baton_requests_accepted_total"
BEGUN = "baton_answers_begun_total"
ANSWERS = "baton_answers_total"
OUTPUT = "baton_answer_tokens_total"
CACHED = "baton_answer_cached_tokens_total"
UNCACHED = "baton_uncached_tokens_total"
LOCAL = "baton_local_tokens_total"
SQUARES = "baton_uncached_token_squares_total"
PAIRS = "baton_prefill_pairs_total"
CONTEXT = "baton_context_token_steps_total"
TTFT_OBJECTIVE = "baton_ttft_objective_seconds_total"
TPOT_OBJECTIVE = "baton_tpot_objective_seconds_total"
OBJECTIVES = (TTFT_OBJECTIVE, TPOT_OBJECTIVE)
COUNTERS = (
    ACCEPTED,
    BEGUN,
    ANSWERS,
    OUTPUT,
    CACHED,
    UNCACHED,
    LOCAL,
    SQUARES,
    PAIRS,
    CONTEXT,
    *OBJECTIVES,
)
REFUSED = "baton_admission_refused_total"  # for whatever reason
GOOD = "baton_goodput_total"  # answers by the objectives that they met
SENT = "baton_output_tokens_total"  # as they come; the answers' own sums wait for their ends
WAITING = "baton_requests_without_worker"
RATIO = "baton_slo_ratio_bucket"


@dataclass(frozen=True, slots=True)
class Reading:
    """The traffic and each pool's own latencies. output_tokens_per_s: all that clients got.
    goodput_per_s: answers that met both objectives; NaN where nobody knows. num_refused: requests
    that admission refused in the window of the latencies."""

    traffic: Traffic
    prefill: PoolFigures = PoolFigures()
    decode: PoolFigures = PoolFigures()
    output_tokens_per_s: float = math.nan
    goodput_per_s: float = math.nan
    num_refused: float = 0.0


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
    """rates: growth a second of COUNTERS. Prompts are known when they begin to be answered, answers
    when they end; without either in the window, the lengths of `before` stand for theirs."""
    traffic = replace(
        before or Traffic(),
        requests_per_s=rates.get(ACCEPTED, rates.get(BEGUN, 0.0)),
        num_waiting=num_waiting,
        age_s=age_s,
    )
    begun, ended = rates.get(BEGUN, 0.0), rates.get(ANSWERS, 0.0)
    if begun > 0:
        traffic = replace(
            traffic,
            uncached_tokens=rates.get(UNCACHED, 0.0) / begun,
            uncached_squares=rates.get(SQUARES, 0.0) / begun,
            uncached_pairs=rates.get(PAIRS, 0.0) / begun,
            cached_tokens=rates.get(CACHED, 0.0) / begun,
            local_share=_share(rates.get(LOCAL, 0.0), rates.get(UNCACHED, 0.0)),
        )
    output = rates.get(OUTPUT, 0.0)
    if ended > 0 and output > 0:
        context = rates.get(CONTEXT, 0.0) / output
        traffic = replace(
            traffic,
            output_tokens=output / ended,
            context_tokens=context,
            ttft_slo_s=rates.get(TTFT_OBJECTIVE, 0.0) / ended,
            tpot_slo_s=rates.get(TPOT_OBJECTIVE, 0.0) / ended,
        )
    return traffic


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else 0.0
