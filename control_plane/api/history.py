"""The last hours as columns: one sample a period, the oldest overwritten."""

from collections import deque
from collections.abc import Mapping

from control_plane.api.shapes import SERIES, HistoryView

STEP_S = 5.0
MAX_MINUTES = 360


class History:
    """A ring of samples of `SERIES`; a name that a sample lacks is null at that time."""

    def __init__(self, step_s: float = STEP_S) -> None:
        self._step_s = step_s
        capacity = int(MAX_MINUTES * 60 / step_s)
        self._samples: deque[tuple[float, tuple[float | None, ...]]] = deque(maxlen=capacity)

    def add(self, at_s: float, values: Mapping[str, float | None]) -> None:
        """at_s: seconds since 1970. Names outside of SERIES are our bug."""
        assert values.keys() <= SERIES.keys(), values.keys() - SERIES.keys()
        self._samples.append((at_s, tuple(values.get(name) for name in SERIES)))

    def since(self, from_s: float) -> HistoryView:
        """The samples taken at from_s or later, the oldest first."""
        kept = [(at_s, row) for at_s, row in self._samples if at_s >= from_s]
        return HistoryView(
            step_s=self._step_s,
            at_s=[at_s for at_s, _ in kept],
            series={name: [row[i] for _, row in kept] for i, name in enumerate(SERIES)},
        )
