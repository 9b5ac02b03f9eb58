"""How steps scatter around a fit's costs: from single steps to the tables of a profile."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from profiles.scatter import Scatter

_NUM_FACTORS = 50
_LEAST_STEPS = 4 * _NUM_FACTORS  # of a kind: fewer say nothing of its tails
_LAGS = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80)
_NUM_DURATIONS = 60
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def fit_scatter(series: Sequence[tuple[Floats, Floats, Bools]]) -> Scatter:
    """series: of each worker, its single steps one after the other: what they took, what was
    expected of them, and which of them computed prompts.  # [num_steps] each

    A kind with too few steps does not scatter. The level's share and duration are those whose
    factors correlate most nearly as the steps' do, over the lags of _LAGS (least squares): what
    several steps take together varies by that. (Ranks correlate more, since single stalls, which
    are most of the variance, count little in them.)
    """
    tables = [_table(_ratios(series, is_prefill)) for is_prefill in (False, True)]
    if not any(tables) or max(len(taken) for taken, _, _ in series) <= max(_LAGS):
        return Scatter()
    kept, lasts_s = _level(*_correlations(series, tables))
    return Scatter(tables[0], tables[1], kept, lasts_s)


def _ratios(series: Sequence[tuple[Floats, Floats, Bools]], is_prefill: bool) -> Floats:
    parts = [(taken / expected)[kind == is_prefill] for taken, expected, kind in series]
    return np.concatenate([np.empty(0), *parts])


def _table(ratios: Floats) -> tuple[float, ...]:
    """The means of equally large parts of the sorted ratios, as shares of the whole mean."""
    if len(ratios) < _LEAST_STEPS:
        return ()
    means = np.array([part.mean() for part in np.array_split(np.sort(ratios), _NUM_FACTORS)])
    return tuple(round(float(factor), 5) for factor in means / means.mean())


def _correlations(
    series: Sequence[tuple[Floats, Floats, Bools]], tables: Sequence[tuple[float, ...]]
) -> tuple[Floats, Floats]:
    """Of factors, by lag; and the mean expected seconds between their steps.  # [num_lags] each"""
    products, distances_s, counts = np.zeros((3, len(_LAGS)))
    for taken, expected, kind in series:
        factors = _standard_factors(taken / expected, kind, tables)
        places_s = np.cumsum(expected) - expected
        for index, lag in enumerate(_LAGS):
            products[index] += (factors[lag:] * factors[:-lag]).sum()
            distances_s[index] += (places_s[lag:] - places_s[:-lag]).sum()
            counts[index] += max(0, len(factors) - lag)
    counts = np.maximum(counts, 1)
    return products / counts, distances_s / counts


def _standard_factors(ratios: Floats, kind: Bools, tables: Sequence[tuple[float, ...]]) -> Floats:
    """Each step's factor in its kind's table, of mean 0 and variance 1; 0 without a table."""
    found = np.zeros(len(ratios))
    for is_prefill, table in enumerate(tables):
        own = kind == bool(is_prefill)
        spread = np.std(table) if table else 0.0
        if own.any() and spread > 0:
            ranks = ratios[own].argsort().argsort() * len(table) // own.sum()
            found[own] = (np.array(table)[ranks] - 1) / spread
    return found


def _level(correlations: Floats, distances_s: Floats) -> tuple[float, float]:
    """The share of steps at the level, and its duration: factors correlate by kept^2 * decay."""
    longest_s = float(distances_s.max())
    durations_s = np.geomspace(distances_s.min(), 4 * longest_s, _NUM_DURATIONS)
    decays = np.exp(-distances_s / durations_s[:, None])  # [num_durations, num_lags]
    squares = np.clip(decays @ correlations / (decays**2).sum(axis=1), 0.0, 1.0)
    errors = ((squares[:, None] * decays - correlations) ** 2).sum(axis=1)
    best = int(errors.argmin())
    return round(float(squares[best] ** 0.5), 4), round(float(durations_s[best]), 6)
