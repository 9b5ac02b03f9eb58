"""When requests arrive: a rate that changes over time, and how irregular the gaps are.

Gaps of mean one are drawn first and then mapped through the inverse of the cumulative rate (time
change of a renewal process). So one process of gaps serves a constant rate, a ramp, a spike and a
change of phase, and the count in any interval has the mean that the rate says.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RateSegment:
    """Requests a second that go linearly from start_rate to end_rate over duration_s."""

    duration_s: float
    start_rate: float
    end_rate: float

    @property
    def num_expected(self) -> float:
        return self.duration_s * (self.start_rate + self.end_rate) / 2


@dataclass(frozen=True, slots=True)
class GapProcess:
    """The gaps between arrivals at rate one; burstiness is the shape of the gamma process.

    1 is Poisson, below 1 is burstier, above 1 more regular (as `vllm bench serve` has it).
    """

    name: str = "poisson"
    burstiness: float = 1.0

    def draw(self, count: int, rng: np.random.Generator) -> Floats:
        """count gaps of mean 1.  # [count]"""
        return GAP_PROCESSES[self.name](count, rng, self.burstiness)


def arrival_times(
    segments: Sequence[RateSegment], gaps: GapProcess, rng: np.random.Generator
) -> Floats:
    """Sorted seconds from the start at which requests arrive.  # [num_arrivals]"""
    total = sum(segment.num_expected for segment in segments)
    marks = _unit_arrivals(total, gaps, rng)
    times: list[Floats] = []
    start_s, start_mark = 0.0, 0.0
    for segment in segments:
        end_mark = start_mark + segment.num_expected
        inside = marks[(marks > start_mark) & (marks <= end_mark)] - start_mark
        times.append(start_s + _inverse(segment, inside))
        start_s += segment.duration_s
        start_mark = end_mark
    return np.concatenate(times) if times else np.empty(0)


def spiked(base: RateSegment, rate: float, start_s: float, duration_s: float) -> list[RateSegment]:
    """`base` with its rate replaced by `rate` between start_s and start_s + duration_s."""
    start_s = min(start_s, base.duration_s)
    end_s = min(start_s + duration_s, base.duration_s)
    before, after = _rate_at(base, start_s), _rate_at(base, end_s)
    parts = [
        RateSegment(start_s, base.start_rate, before),
        RateSegment(end_s - start_s, rate, rate),
        RateSegment(base.duration_s - end_s, after, base.end_rate),
    ]
    return [part for part in parts if part.duration_s > 0]


def spread_in_ticks(ticks_s: Floats, rng: np.random.Generator) -> Floats:
    """Times of a trace that stand on ticks, spread evenly at random up to the next tick.

    ticks_s: sorted. The order stays; a tick with one arrival is spread too.  # [num_arrivals]
    """
    if ticks_s.size == 0:
        return ticks_s
    distinct, counts = np.unique(ticks_s, return_counts=True)
    widths = np.diff(distinct)
    last_width = float(np.median(widths)) if widths.size else 0.0
    room = np.repeat(np.append(widths, last_width), counts)
    return np.sort(ticks_s + rng.random(ticks_s.size) * room)


def _unit_arrivals(total: float, gaps: GapProcess, rng: np.random.Generator) -> Floats:
    """Arrivals of the unit-rate process in (0, total].  # [num_arrivals]"""
    chunk = max(16, int(total + 4 * math.sqrt(total)))
    marks = np.cumsum(gaps.draw(chunk, rng))
    while marks[-1] <= total:
        marks = np.concatenate((marks, marks[-1] + np.cumsum(gaps.draw(chunk, rng))))
    return marks[marks <= total * (1 + 1e-12)]


def _inverse(segment: RateSegment, marks: Floats) -> Floats:
    """Seconds into the segment at which its cumulative rate reaches each mark.  # [num_marks]"""
    slope = (segment.end_rate - segment.start_rate) / segment.duration_s
    rates = np.sqrt(np.maximum(segment.start_rate**2 + 2 * slope * marks, 0.0))
    seconds = 2 * marks / np.maximum(segment.start_rate + rates, 1e-300)  # stable root
    return np.minimum(seconds, segment.duration_s)


def _rate_at(segment: RateSegment, at_s: float) -> float:
    share = at_s / segment.duration_s
    return segment.start_rate + share * (segment.end_rate - segment.start_rate)


def _constant(count: int, rng: np.random.Generator, burstiness: float) -> Floats:
    return np.ones(count)


def _poisson(count: int, rng: np.random.Generator, burstiness: float) -> Floats:
    return rng.exponential(1.0, count)


def _gamma(count: int, rng: np.random.Generator, burstiness: float) -> Floats:
    return rng.gamma(burstiness, 1 / burstiness, count)


GAP_PROCESSES: dict[str, Callable[[int, np.random.Generator, float], Floats]] = {
    "constant": _constant,
    "poisson": _poisson,
    "gamma": _gamma,
}
