"""Where values stand on an axis of a plot, and which ticks it has."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_MAX_LOG_SPAN = 1e6  # smaller values stand on the edge


@dataclass(frozen=True, slots=True)
class Axis:
    """From low to high, over pixels from start to end; a logarithmic one has low > 0."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values outside stand on the edge."""
        if self.is_log:
            low, high = math.log10(self.low), math.log10(self.high)
            share = (math.log10(max(value, self.low)) - low) / (high - low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.is_log else _ticks(self.low, self.high)


def axis_for(
    values: Iterable[float], start: float, end: float, *, is_log: bool = False, zero: bool = True
) -> Axis:
    """An axis that holds all values with round ends; zero: a linear one begins at 0."""
    finite = [value for value in values if math.isfinite(value)]
    if is_log:
        positive = [value for value in finite if value > 0] or [1.0]
        high = max(positive)
        low = max(min(positive), high / _MAX_LOG_SPAN)
        return Axis(low / 1.05, max(high * 1.05, low * 2), start, end, True)
    low = 0.0 if zero else min(finite, default=0.0)
    high = max(finite, default=1.0)
    if not (high - low) / 5 > 0:  # nothing, or too little to divide
        high = low + 1
    step = _step(low, high)
    return Axis(low, math.ceil(high / step - 1e-9) * step, start, end)


def tick_label(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


def _step(low: float, high: float, wanted: int = 5) -> float:
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    ticks = [factor * 10.0**power for power in decades for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]
