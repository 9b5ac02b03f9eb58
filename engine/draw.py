"""Draws one token from a row of probabilities, truncated without sorting the vocabulary."""

import numpy as np
from numpy.typing import NDArray

from wire.messages import SamplingParams

Probabilities = NDArray[np.float32]

# Tokens less likely than these are left out at first; most truncations keep none of them.
_CUTOFFS = (1e-4, 1e-6)
_CHUNK = 512

NO_TOKEN = -1  # what a row without probabilities gives


def draw(probabilities: Probabilities, params: SamplingParams, number: float) -> int:
    """The token at which the kept tokens' cumulated probability passes `number` of [0, 1).

    probabilities: [vocab], of sum 1, or NaN throughout, which gives NO_TOKEN. They cumulate in the
    order of the vocabulary, which the rounding of a logit does not change.
    """
    if np.isnan(probabilities[0]):
        return NO_TOKEN
    if params.min_p <= 0 and params.top_p >= 1 and not _limit(params, len(probabilities)):
        return _invert_in_chunks(probabilities, number)
    ids = kept_tokens(probabilities, params)
    return int(ids[_invert(np.cumsum(probabilities[ids], dtype=np.float64), number)])


def kept_tokens(probabilities: Probabilities, params: SamplingParams) -> NDArray[np.intp]:
    """The tokens that min-p, then top-k, then top-p over what the two leave may draw, ascending.

    Equally likely tokens stay or go together. top-p keeps the smallest set of most likely tokens
    that holds its share.
    """
    ids, cutoff = _candidates(probabilities, params)
    likely = probabilities[ids]
    top_k = _limit(params, len(probabilities))
    floor = float(likely.max()) * params.min_p
    if 0 < top_k <= len(likely):
        floor = max(floor, float(np.partition(likely, -top_k)[-top_k]))
    if params.top_p < 1:
        descending = np.sort(likely[likely >= floor])[::-1]
        held = np.cumsum(descending, dtype=np.float64)
        whole = float(held[-1]) if floor >= cutoff else _mass(probabilities, floor)
        last = int(np.searchsorted(held, params.top_p * whole))
        floor = float(descending[min(last, len(descending) - 1)])
    return ids[likely >= floor]


def _limit(params: SamplingParams, vocab: int) -> int:
    """top_k, or 0 where it limits nothing."""
    return params.top_k if params.top_k < vocab else 0


def _candidates(
    probabilities: Probabilities, params: SamplingParams
) -> tuple[NDArray[np.intp], float]:
    """The tokens from a cutoff on, the highest that leaves out none that truncation keeps."""
    top_k = _limit(params, len(probabilities))
    peak = float(probabilities.max())
    for cutoff in _CUTOFFS:
        ids = np.flatnonzero(probabilities >= cutoff)
        if peak * params.min_p >= cutoff or 0 < top_k <= len(ids):
            return ids, cutoff
        if top_k or params.top_p >= 1:
            continue
        if float(probabilities[ids].sum(dtype=np.float64)) > params.top_p:
            return ids, cutoff
    return np.arange(len(probabilities)), 0.0


def _mass(probabilities: Probabilities, floor: float) -> float:
    if floor <= 0:
        return 1.0
    return float(probabilities[probabilities >= floor].sum(dtype=np.float64))


def _invert(ends: NDArray[np.float64], number: float) -> int:
    """The first index whose cumulated weight passes that share of the whole; rounding never
    leads to one that adds no weight."""
    found = int(np.searchsorted(ends, number * ends[-1], side="right"))
    return min(found, int(np.searchsorted(ends, ends[-1])))


def _invert_in_chunks(probabilities: Probabilities, number: float) -> int:
    """`_invert` of the whole row: first among sums of chunks, then inside one."""
    starts = np.arange(0, len(probabilities), _CHUNK)
    ends = np.cumsum(np.add.reduceat(probabilities, starts), dtype=np.float64)
    chunk = _invert(ends, number)
    before = ends[chunk - 1] if chunk else 0.0
    inside = (number * ends[-1] - before) / (ends[chunk] - before)
    start = int(starts[chunk])
    weights = probabilities[start : start + _CHUNK]
    return start + _invert(np.cumsum(weights, dtype=np.float64), float(inside))
