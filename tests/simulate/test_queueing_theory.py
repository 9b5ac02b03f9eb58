"""A simulated worker that serves one request at a time is a queue that theory knows."""

from dataclasses import replace

import numpy as np
import pytest
from toy_cluster import make_profile, make_spec, make_workload

from loadtest.columns import columns_of
from loadtest.slo import parse_slos
from loadtest.summary import Window, summarize
from simulate.run import simulate

TOKENS = 1000  # of a mean service time of one second
SERVER = make_profile(
    step_s=1e-12,
    sequence_s=0.0,
    context_token_s=0.0,
    prefill_token_s=1 / TOKENS,
    prefill_pair_s=0.0,
    prefill_step_s=0.0,
    max_num_seqs=1,
    decode_batch_tokens=1 << 20,
    kv_tokens=1 << 24,
)


def lindley(arrivals, services):
    """Exact waiting times of a first-come first-served queue of one server."""
    steps = np.concatenate(([0.0], services[:-1] - np.diff(arrivals)))
    sums = np.cumsum(steps)
    return sums - np.minimum.accumulate(sums)


def draw(rate, count, is_exponential, seed):
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    tokens = np.full(count, TOKENS)
    if is_exponential:
        tokens = np.maximum(2, np.rint(rng.exponential(TOKENS, count))).astype(int)
    return arrivals, tokens  # a prompt of one token would count as a decode


def draw_evenly(rate, count, seed):
    """As draw, but gaps and services are the quantiles of their distributions in a random order, so
    that their means are exact; the mean wait then varies by 0.8 % from seed to seed."""
    rng = np.random.default_rng(seed)
    quantiles = -np.log1p(-(np.arange(count) + 0.5) / count)
    tokens = np.maximum(2, np.rint(rng.permutation(quantiles) * TOKENS)).astype(int)
    return np.cumsum(rng.permutation(quantiles) / rate), tokens


def simulated_waits(arrivals, tokens, mean_s=1.0):
    """In mean service times, of which each takes mean_s."""
    starts = (arrivals * mean_s).tolist()
    requests = [(a, n, 1) for a, n in zip(starts, tokens.tolist(), strict=True)]
    server = replace(SERVER, prefill_token_s=mean_s / TOKENS)
    # A request of one token is prefilled and ends: its whole time is wait and service.
    spec = make_spec("0:1", learns=False, profile=server, unit_tokens=1 << 20)
    outcome = simulate(spec, make_workload(requests))
    records = sorted(outcome.records, key=lambda record: record.index)
    ttft = np.array([record.ttft_s for record in records])
    return ttft / mean_s - tokens / TOKENS, outcome


@pytest.mark.parametrize("is_exponential", [True, False])
@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
def test_every_wait_is_the_one_of_lindleys_recursion(is_exponential, rate):
    arrivals, tokens = draw(rate, 4000, is_exponential, seed=1)
    waits, _ = simulated_waits(arrivals, tokens)
    np.testing.assert_allclose(waits, lindley(arrivals, tokens / TOKENS), atol=1e-6)


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.7])
@pytest.mark.parametrize(
    ("is_exponential", "mean_wait"),
    [(True, lambda rho: rho / (1 - rho)), (False, lambda rho: rho / (2 * (1 - rho)))],
    ids=["M/M/1", "M/D/1"],
)
def test_the_recursion_meets_the_closed_form_within_two_percent(is_exponential, mean_wait, rate):
    arrivals, tokens = draw(rate, 4_000_000, is_exponential, seed=2)
    waits = lindley(arrivals, tokens / TOKENS)
    assert waits.mean() == pytest.approx(mean_wait(rate), rel=0.02)


@pytest.mark.slow
def test_the_simulated_mean_wait_of_md1_is_within_two_percent_of_the_closed_form():
    arrivals, tokens = draw(0.5, 40_000, is_exponential=False, seed=3)
    waits, _ = simulated_waits(arrivals, tokens)
    assert waits.mean() == pytest.approx(0.5, rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_the_simulated_mean_wait_of_mm1_is_within_two_percent_of_the_closed_form(rate):
    """Services of 10 ms, for a short time to simulate: idle workers report every 250 ms."""
    arrivals, tokens = draw_evenly(rate, 200_000, seed=4)
    waits, _ = simulated_waits(arrivals, tokens, mean_s=0.01)
    assert waits.mean() == pytest.approx(rate / (1 - rate), rel=0.02)


def test_littles_law_holds_for_requests_under_way():
    arrivals, tokens = draw(0.6, 4000, is_exponential=True, seed=5)
    _, outcome = simulated_waits(arrivals, tokens)
    everything = columns_of(outcome.records, parse_slos([]))
    whole = summarize(everything, Window(0.0, outcome.end_s))
    arrival_rate = len(outcome.records) / outcome.end_s
    assert whole.mean_concurrency == pytest.approx(arrival_rate * whole.e2el.mean / 1000, rel=1e-6)
