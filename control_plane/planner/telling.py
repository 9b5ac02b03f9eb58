"""What a decision tells beside its actions: its inputs by name, alarms, one line."""

import math

from control_plane.planner.needs import Growth, Needs
from control_plane.planner.types import Observation, PoolSizes, Traffic
from wire.messages import Role


def inputs_of(
    seen: Observation, found: Needs, traffic: Traffic, ahead: Growth, horizon_s: float
) -> tuple[tuple[str, float], ...]:
    """What was looked at. ahead: by what rates grow until horizon_s, when a worker that is asked
    for now would serve."""
    prompts = traffic.requests_per_s * traffic.uncached_tokens
    met = ((role, seen.figures(role).attainment) for role in Role)
    shares = {role: math.nan if share is None else share for role, share in met}
    return (
        ("pressure_prefill", found.prefill.pressure()),
        ("pressure_decode", found.decode.pressure()),
        ("needed_prefill", float(found.prefill.needed())),
        ("needed_decode", float(found.decode.needed())),
        ("observed_prefill", found.prefill.observed),
        ("observed_decode", found.decode.observed),
        ("requests_per_s", traffic.requests_per_s),
        ("uncached_tokens", traffic.uncached_tokens),
        ("local_share", traffic.local_share),
        ("output_tokens", traffic.output_tokens),
        ("context_tokens", traffic.context_tokens),
        ("ttft_attainment", shares[Role.PREFILL]),
        ("tpot_attainment", shares[Role.DECODE]),
        ("goodput_per_s", seen.goodput_per_s),
        ("uncached_tokens_per_s", prompts),
        ("output_tokens_per_s", traffic.generated_per_s),
        ("forecast_uncached_tokens_per_s", prompts * ahead.prefill),
        ("forecast_output_tokens_per_s", traffic.generated_per_s * ahead.decode),
        ("forecast_horizon_s", horizon_s),
    )


def complaints(seen: Observation, found: Needs) -> tuple[str, ...]:
    """Workers that are not believed, and objectives that no size meets."""
    said = [f"{w.worker_id}: {w.complaint}" for w in seen.workers if w.complaint]
    return (*said, *([found.unreachable] if found.unreachable else []))


def summary_of(actual: PoolSizes, desired: PoolSizes, found: Needs) -> str:
    prefill, decode = found.prefill.pressure(), found.decode.pressure()
    return f"{actual} -> {desired}: pressure {prefill:.2f} prefill, {decode:.2f} decode"
