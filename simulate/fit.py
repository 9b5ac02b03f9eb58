"""A profile's step times from a live worker's telemetry, by least squares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiles.scatter import NO_SCATTER, Scatter
from simulate.errors import SimulationError
from simulate.scatter_fit import fit_scatter
from wire.messages import StepTotals

_MIN_SAMPLES = 8
_ROUNDS = 8
_LEAST_EXPECTED = 0.1  # of what was taken: less would give one sample all the weight
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StepFit:
    """Seconds, as `profiles.profile.Profile` names them. error: median relative of a sample.

    scatter: of single steps; none where the samples were of many steps each.
    """

    step_s: float
    sequence_s: float
    context_token_s: float
    prefill_step_s: float
    prefill_token_s: float
    prefill_pair_s: float
    error: float
    num_samples: int
    scatter: Scatter = NO_SCATTER


def fit_steps(series: Sequence[Sequence[StepTotals]]) -> StepFit:
    """The costs that explain best what the steps between two totals took, none below zero, and
    how single steps scatter around them.

    series: the totals of one worker each, in their order; all workers of one kind. Every sample
    weighs the same, whatever its length: errors count as shares of what is expected. (As shares of
    what was taken they would pull the costs below their mean, by 8 % where times scatter by 20 %.)
    Raises SimulationError for too little load to learn from.
    """
    parts = [part for part in map(_samples, series) if len(part[1])]
    num_samples = sum(len(taken) for _, taken in parts)
    if num_samples < _MIN_SAMPLES:
        raise SimulationError(
            f"{num_samples} samples of steps, at least {_MIN_SAMPLES} are needed: is there load?"
        )
    work = np.concatenate([work for work, _ in parts])
    taken = np.concatenate([taken for _, taken in parts])
    costs = _relative_least_squares(work, taken)
    error = float(np.median(np.abs(work @ costs / taken - 1)))
    step, sequence, context, prefill_step, prefill_token, prefill_pair = costs.tolist()
    return StepFit(
        step,
        sequence,
        context,
        prefill_step,
        prefill_token,
        prefill_pair,
        error,
        num_samples,
        fit_scatter([_single(work, taken, costs) for work, taken in parts]),
    )


def _samples(totals: Sequence[StepTotals]) -> tuple[Floats, Floats]:
    """The work between two totals and what it took.  # [num_samples, 6], [num_samples]"""
    sums = np.array([(*_work(one), one.step_s) for one in totals]).reshape(-1, 7)
    grown = np.diff(sums, axis=0)
    grown = grown[(grown[:, 0] > 0) & (grown[:, 6] > 0)]
    return grown[:, :6], grown[:, 6]


def _single(work: Floats, taken: Floats, costs: Floats) -> tuple[Floats, Floats, Bools]:
    """The samples of one step: what it took, what was expected, whether it computed prompts."""
    expected = work @ costs
    own = (work[:, 0] == 1) & (expected > 0)
    return taken[own], expected[own], work[own, 3] > 0


def _work(totals: StepTotals) -> tuple[float, ...]:
    return (
        totals.num_steps,
        totals.num_decode_tokens,
        totals.num_context_tokens,
        totals.num_prefill_steps,
        totals.num_prefill_tokens,
        totals.num_prefill_pairs,
    )


def _relative_least_squares(work: Floats, taken: Floats) -> Floats:
    """The weights follow from the costs before them.  # [num_samples, 6], [num_samples] -> [6]"""
    expected = taken
    for _ in range(_ROUNDS):
        costs = _non_negative_least_squares(work / expected[:, None], taken / expected)
        expected = np.maximum(work @ costs, _LEAST_EXPECTED * taken)
    return costs


def _non_negative_least_squares(matrix: Floats, target: Floats) -> Floats:
    """Lawson, Hanson: "Solving Least Squares Problems" (1974), chapter 23.  # [num_columns]"""
    scale = np.abs(matrix).max(axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    count = scaled.shape[1]
    found, is_free = np.zeros(count), np.zeros(count, dtype=bool)
    for _ in range(10 * count):
        gradient = scaled.T @ (target - scaled @ found)
        gradient[is_free] = -np.inf
        if is_free.all() or gradient.max() <= 1e-9 * len(target):
            break
        is_free[int(gradient.argmax())] = True
        found = _step_inside(scaled, target, found, is_free)
    result: Floats = found / scale
    return result


def _step_inside(matrix: Floats, target: Floats, found: Floats, is_free: Bools) -> Floats:
    """The least squares of the free columns, columns that fall below zero fixed at it."""
    while True:
        trial = np.zeros_like(found)
        trial[is_free] = np.linalg.lstsq(matrix[:, is_free], target, rcond=None)[0]
        below = is_free & (trial <= 0)
        if not below.any():
            return trial
        share = np.min(found[below] / (found[below] - trial[below]))
        found = found + share * (trial - found)
        is_free &= found > 1e-12
        found[~is_free] = 0.0
