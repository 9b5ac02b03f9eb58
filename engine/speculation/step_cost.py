"""How long a decode step of so many tokens takes, learnt from the steps themselves."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

_EXACT = 8  # token counts up to here are told apart; from there on by steps of a half octave
_KEPT = 5
_STALE_STEPS = 512  # contexts grow: what was measured so long ago is measured again


@dataclass(slots=True)
class _Measured:
    num_rows: int
    seen_at: int
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))


class StepCost:
    """The low median of the last few steps of each size. One long step, such as the first of a
    size, which compiles kernels, does not count: a size is known from its second step on."""

    def __init__(self) -> None:
        self._measured: dict[int, _Measured] = {}
        self._num_steps = 0

    def learn(self, num_rows: int, seconds: float) -> None:
        """A step that computed num_rows tokens and no prompt."""
        self._num_steps += 1
        place = _place(num_rows)
        found = self._measured.get(place)
        if found is None or self._is_stale(found):
            found = self._measured[place] = _Measured(num_rows, self._num_steps)
        found.num_rows, found.seen_at = num_rows, self._num_steps
        found.seconds.append(seconds)

    def knows(self, num_rows: int) -> bool:
        found = self._measured.get(_place(num_rows))
        return found is not None and self._is_known(found)

    def estimate(self, num_rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of steps of these sizes, linear between known sizes. Beyond the largest known
        one it is taken to cost no more, so that it is tried. Zeros where nothing is known."""
        known = sorted(
            (m.num_rows, median_low(m.seconds))
            for m in self._measured.values()
            if self._is_known(m)
        )
        if not known:
            return np.zeros(len(num_rows))
        sizes, seconds = zip(*known, strict=True)
        estimates: NDArray[np.float64] = np.interp(num_rows, sizes, seconds)
        return estimates

    def _is_known(self, measured: _Measured) -> bool:
        return len(measured.seconds) > 1 and not self._is_stale(measured)

    def _is_stale(self, measured: _Measured) -> bool:
        return self._num_steps - measured.seen_at > _STALE_STEPS


def _place(num_rows: int) -> int:
    if num_rows <= _EXACT:
        return num_rows
    return _EXACT + math.ceil(2 * math.log2(num_rows / _EXACT))
