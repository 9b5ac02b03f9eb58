"""A profile's step times from a live worker's telemetry, by least squares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulate.errors import SimulationError
from wire.messages import StepTotals

_MIN_SAMPLES = 8
_ROUNDS = 8
_LEAST_EXPECTED = 0.1  # of what was taken: less would give one sample all the weight
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StepFit:
    """Seconds, as `profiles.profile.Profile` names them. error: median relative of a sample."""

    step_s: float
    sequence_s: float
    context_token_s: float
    prefill_step_s: float
    prefill_token_s: float
    prefill_pair_s: float
    error: float
    num_samples: int


def fit_steps(series: Sequence[Sequence[StepTotals]]) -> StepFit:
    """The costs that explain best what the steps between two totals took, none below zero.

    series: the totals of one worker each, in their order; all workers of one kind. Every sample
    weighs the same, whatever its length: errors count as shares of what is expected. (As shares of
    what was taken they would pull the costs below their mean, by 8 % where times scatter by 20 %.)
    Raises SimulationError for too little load to learn from.
    """
    samples = [
        (_work(later) - _work(before), later.step_s - before.step_s)
        for one in series
        for before, later in zip(one, one[1:], strict=False)
        if later.num_steps > before.num_steps and later.step_s > before.step_s
    ]
    if len(samples) < _MIN_SAMPLES:
        raise SimulationError(
            f"{len(samples)} samples of steps, at least {_MIN_SAMPLES} are needed: is there load?"
        )
    work, taken = np.array([s[0] for s in samples]), np.array([s[1] for s in samples])
    costs = _relative_least_squares(work, taken)
    error = float(np.median(np.abs(work @ costs / taken - 1)))
    step, sequence, context, prefill_step, prefill_token, prefill_pair = costs.tolist()
    return StepFit(
        step, sequence, context, prefill_step, prefill_token, prefill_pair, error, len(samples)
    )


def _work(totals: StepTotals) -> Floats:
    return np.array(
        [
            totals.num_steps,
            totals.num_decode_tokens,
            totals.num_context_tokens,
            totals.num_prefill_steps,
            totals.num_prefill_tokens,
            totals.num_prefill_pairs,
        ],
        dtype=np.float64,
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
