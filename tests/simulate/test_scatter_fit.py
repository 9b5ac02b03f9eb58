"""The scatter of single steps is found again from their totals."""

from random import Random

import numpy as np
import pytest
from test_fit import COSTS, some_work, totals_taking

from profiles.scatter import Scatter, StepScatter
from simulate.fit import fit_steps


def single_steps(count, seed):
    """[count, 6] of work, four of five steps without prompts."""
    rng = np.random.default_rng(seed)
    work = some_work(count, seed)
    work[:, 1:3] /= work[:, :1]
    work[:, 0] = 1
    work[:, 3] = rng.random(count) < 0.2
    work[:, 4] = work[:, 3] * rng.integers(16, 512, count)
    work[:, 5] = work[:, 4] * rng.integers(60, 900, count)
    return np.floor(work)


def scattered(work, scatter, seed):
    """What each step takes, one after the other."""
    steps, at_s, seconds = StepScatter(scatter, Random(seed)), 0.0, []
    for expected_s, is_prefill in zip(work @ COSTS, work[:, 3] > 0, strict=True):
        steps.forget_before(at_s)
        seconds.append(expected_s * steps.factor(at_s, bool(is_prefill)))
        at_s += expected_s
    return np.array(seconds)


def table(sigma):
    rng = np.random.default_rng(1)
    factors = np.sort(rng.lognormal(0.0, sigma, 100))
    return tuple((factors / factors.mean()).tolist())


@pytest.mark.parametrize(("kept", "lasts_s"), [(0.0, 0.0), (0.8, 0.5), (0.95, 2.0)])
def test_what_scattered_steps_is_found_again(kept, lasts_s):
    scatter = Scatter(table(0.25), table(0.1), kept, lasts_s)
    series = []
    for seed in (1, 2):
        work = single_steps(6000, seed)
        series.append(totals_taking(work, scattered(work, scatter, seed)))
    found = fit_steps(series).scatter
    for table_found, table_drawn in (
        (found.decode, scatter.decode),
        (found.prefill, scatter.prefill),
    ):
        for share in (0.1, 0.5, 0.9):
            expected = np.quantile(table_drawn, share)
            assert np.quantile(table_found, share) == pytest.approx(expected, rel=0.08), share
    assert found.kept == pytest.approx(kept, abs=0.15)  # that much is chance where there is none
    if kept:
        assert found.lasts_s == pytest.approx(lasts_s, rel=0.4)


def test_samples_of_many_steps_and_few_steps_tell_of_no_scatter():
    work = some_work(80)
    assert fit_steps([totals_taking(work, work @ COSTS)]).scatter.is_none
    few = single_steps(150, 3)
    assert fit_steps([totals_taking(few, few @ COSTS)]).scatter.is_none
