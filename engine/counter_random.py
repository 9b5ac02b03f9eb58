"""Random numbers that depend on a key alone, so that any engine draws the same one again."""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT = np.uint64(31)
_UNUSED_BITS = np.uint64(11)


def uniform(seeds: list[int], positions: list[int]) -> NDArray[np.float64]:
    """One number of [0, 1) for each (seed, position), of 53 random bits.

    SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014)
    as a hash, once over the seed and once more with the position.
    """
    seed = np.array([s & 0xFFFFFFFFFFFFFFFF for s in seeds], dtype=np.uint64)
    position = np.array(positions, dtype=np.uint64)
    bits = _mix(_mix(seed) + position * _GOLDEN)
    values: NDArray[np.float64] = (bits >> _UNUSED_BITS).astype(np.float64) * 2.0**-53
    return values


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + _GOLDEN
    for shift, factor in _STEPS:
        state = (state ^ (state >> shift)) * factor
    return state ^ (state >> _LAST_SHIFT)
