"""Additive Holt-Winters with a damped trend (Hyndman and Athanasopoulos, FPP3 §8.3)."""

import math

import numpy as np
import numpy.typing as npt

_GAP_PERIODS = 10


class HoltWinters:
    """One series, one value a period, in order. season: periods of a cycle, 0 for none.

    The first season only fills the pattern: until it is over, forecasts have level and trend.
    """

    def __init__(
        self,
        *,
        level_weight: float = 0.3,
        trend_weight: float = 0.1,
        season_weight: float = 0.2,
        damping: float = 0.95,
        season: int = 0,
    ) -> None:
        self._alpha, self._beta, self._gamma = level_weight, trend_weight, season_weight
        self._phi = damping
        self._pattern: npt.NDArray[np.float64] = np.zeros(season)
        self._first: list[float] = []  # values of the first season
        self._num_values = 0
        self._level = math.nan
        self._trend = 0.0
        self._squared_error = 0.0

    @property
    def num_values(self) -> int:
        return self._num_values

    @property
    def error(self) -> float:
        """The smoothed root mean square of one-period errors."""
        return math.sqrt(self._squared_error)

    def observe(self, value: float) -> None:
        if math.isnan(self._level):
            self._level = value
        else:
            self._update(value)
        season = len(self._pattern)
        if season and len(self._first) < season:
            self._first.append(value)
            if len(self._first) == season:
                self._pattern = np.array(self._first) - np.mean(self._first)
                self._level -= self._pattern[self._num_values % season]
        self._num_values += 1

    def forecast(self, periods: float) -> float:
        """The value so many periods ahead, never below 0; NaN before the first one."""
        return max(0.0, self._level + self._damped(periods) * self._trend + self._season(periods))

    def _update(self, value: float) -> None:
        expected = self.forecast(1)
        self._squared_error += self._alpha * ((value - expected) ** 2 - self._squared_error)
        season, damped = self._season(1), self._phi * self._trend
        last = self._level
        self._level = self._alpha * (value - season) + (1 - self._alpha) * (last + damped)
        self._trend = self._beta * (self._level - last) + (1 - self._beta) * damped
        if self._has_pattern:
            index = self._num_values % len(self._pattern)
            error = value - last - damped - season
            self._pattern[index] += self._gamma * error

    @property
    def _has_pattern(self) -> bool:
        return len(self._pattern) > 0 and len(self._first) == len(self._pattern)

    def _season(self, periods: float) -> float:
        if not self._has_pattern:
            return 0.0
        index = (self._num_values + max(1, round(periods)) - 1) % len(self._pattern)
        return float(self._pattern[index])

    def _damped(self, periods: float) -> float:
        """phi + phi^2 + .. + phi^periods."""
        if self._phi == 1:
            return periods
        return float(self._phi * (1 - self._phi**periods) / (1 - self._phi))


class RateForecast:
    """A rate that is observed at uneven times, forecast in seconds. A gap of many periods, or a
    clock that steps back, starts it afresh."""

    def __init__(self, period_s: float, season_s: float = 0.0) -> None:
        self._period_s = period_s
        self._season = round(season_s / period_s)
        self._model = HoltWinters(season=self._season)
        self._at_s = -math.inf

    def observe(self, at_s: float, value: float) -> None:
        passed = (at_s - self._at_s) / self._period_s
        if not 0 <= passed <= _GAP_PERIODS:
            self._model = HoltWinters(season=self._season)
            passed = 1.0
        if passed < 0.5:
            return
        for _ in range(max(1, round(passed))):
            self._model.observe(value)
        self._at_s = at_s

    def growth(self, horizon_s: float, value: float) -> float:
        """The forecast over `value`, within 1 .. 2: a forecast may raise capacity, never cut it."""
        if self._model.num_values < 3 or value <= 0:
            return 1.0
        return min(2.0, max(1.0, self._model.forecast(horizon_s / self._period_s) / value))
