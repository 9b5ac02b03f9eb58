"""Step costs are found again from the totals of steps that cost so much."""

import numpy as np
import pytest

from simulate.errors import SimulationError
from simulate.fit import fit_steps
from wire.messages import StepTotals

COSTS = np.array([0.012, 4e-4, 2e-7, 3e-3, 9e-5, 6e-9])


def totals_of(work, costs, noise=0.0, seed=0):
    """[num_samples, 6] of work, added up as a worker does."""
    rng = np.random.default_rng(seed)
    return totals_taking(work, (work @ costs) * (1 + noise * rng.standard_normal(len(work))))


def totals_taking(work, seconds):
    taken, sums = np.cumsum(seconds), np.cumsum(work, axis=0).astype(int)
    rows = [StepTotals()]
    for (steps, seqs, context, prefills, tokens, pairs), taken_s in zip(sums, taken, strict=True):
        rows.append(StepTotals(steps, prefills, taken_s, seqs, context, tokens, pairs))
    return rows


def some_work(count, seed=1):
    rng = np.random.default_rng(seed)
    steps = rng.integers(5, 60, count)
    batch = rng.integers(0, 30, count)
    prefills = rng.integers(0, 5, count)
    tokens = prefills * rng.integers(50, 500, count)
    columns = (
        steps,
        steps * batch,
        steps * batch * rng.integers(50, 3000, count),
        prefills,
        tokens,
        tokens * rng.integers(60, 900, count),
    )
    return np.stack(columns, axis=1).astype(float)


def test_exact_totals_give_the_exact_costs():
    fit = fit_steps([totals_of(some_work(80), COSTS)])
    found = [fit.step_s, fit.sequence_s, fit.context_token_s, fit.prefill_step_s]
    assert found == pytest.approx(COSTS[:4], rel=1e-3)
    assert fit.error < 1e-6 and fit.num_samples == 80


def test_noise_leaves_predictions_close_and_costs_above_zero():
    costs = COSTS * [1, 0, 1, 0, 1, 1]
    fit = fit_steps([totals_of(some_work(200, seed=3), costs, noise=0.05, seed=4)])
    assert 0 < fit.error < 0.06
    assert min(fit.sequence_s, fit.prefill_step_s) >= 0
    assert fit.step_s == pytest.approx(costs[0], rel=0.1)


def test_costs_are_those_of_the_mean_step_where_times_scatter():
    work, rng = some_work(400, seed=5), np.random.default_rng(6)
    factors = rng.lognormal(-0.5 * 0.3**2, 0.3, len(work))  # of mean 1
    seconds = (work @ COSTS) * factors
    fit = fit_steps([totals_taking(work, seconds)])
    costs = np.array([fit.step_s, fit.sequence_s, fit.context_token_s, fit.prefill_step_s,
                      fit.prefill_token_s, fit.prefill_pair_s])  # fmt: skip
    assert (work @ costs).sum() == pytest.approx((work @ COSTS).sum(), rel=0.04)


def test_two_workers_teach_together_and_a_restart_is_no_sample():
    work = some_work(40)
    both = [totals_of(work[:20], COSTS), totals_of(work[20:], COSTS)]
    assert fit_steps(both).num_samples == 40
    restarted = [*both[0], *both[1]]
    assert fit_steps([restarted]).num_samples == 40


def test_an_idle_cluster_teaches_nothing_and_says_so():
    with pytest.raises(SimulationError, match="is there load"):
        fit_steps([[StepTotals()] * 30])
