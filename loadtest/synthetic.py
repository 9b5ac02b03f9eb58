"""Workloads made from a description: phases of rates, lengths, shared prefixes and turns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.arrivals import Floats, GapProcess, RateSegment, arrival_times
from loadtest.errors import LoadtestError
from loadtest.lengths import LengthSpec
from loadtest.plan import Segment, Turn, Workload, number

_OWN_IDS = 1 << 40  # block ids of parts that no other request has
_PREFIX_IDS = 1 << 41  # block ids of shared prefixes


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time with one kind of request; its name is the class of its requests.

    prefix_tokens of each prompt are shared by the requests of one of prefix_groups groups. A
    conversation has `turns` requests; between an answer and the next turn lie think_s on average,
    exponentially distributed.
    """

    name: str
    rates: tuple[RateSegment, ...]
    input_tokens: LengthSpec
    output_tokens: LengthSpec
    prefix_tokens: int = 0
    prefix_groups: int = 1
    turns: int = 1
    think_s: float = 0.0

    @property
    def duration_s(self) -> float:
        return sum(segment.duration_s for segment in self.rates)


def synthetic_workload(
    phases: Sequence[Phase], gaps: GapProcess, seed: int, max_requests: int = 0
) -> Workload:
    """Arrivals are of conversations. The same seed gives the same workload."""
    times_s = phase_arrivals(phases, gaps, seed)
    if max_requests:
        times_s = times_s[: max(1, max_requests // max(1, phases[0].turns))]
    ends_s = np.cumsum([phase.duration_s for phase in phases])
    which = np.minimum(np.searchsorted(ends_s, times_s), len(phases) - 1)
    rng = np.random.default_rng([seed, 3])
    starts: list[tuple[float, Sequence[Turn], str]] = []
    for phase_index, phase in enumerate(phases):
        own = times_s[which == phase_index]
        turns = _turns(phase, phase_index, own.size, rng)
        starts += zip(own.tolist(), turns, [phase.name] * own.size, strict=True)
    duration_s = float(times_s[-1]) if max_requests else float(ends_s[-1])
    return Workload(number(starts), duration_s, _describe(phases, gaps))


def phase_arrivals(phases: Sequence[Phase], gaps: GapProcess, seed: int) -> Floats:
    """[num_arrivals]; raises LoadtestError when there are none."""
    segments = [segment for phase in phases for segment in phase.rates]
    times_s = arrival_times(segments, gaps, np.random.default_rng([seed, 2]))
    if times_s.size == 0:
        raise LoadtestError("no request arrives at this rate in this time")
    return times_s


def _turns(
    phase: Phase, phase_index: int, count: int, rng: np.random.Generator
) -> list[tuple[Turn, ...]]:
    """The turns of `count` conversations."""
    shape = (count, phase.turns)
    inputs = phase.input_tokens.draw(count * phase.turns, rng).reshape(shape)
    outputs = phase.output_tokens.draw(count * phase.turns, rng).reshape(shape)
    thinks = rng.exponential(1.0, shape) * phase.think_s
    groups = rng.integers(0, phase.prefix_groups, count)
    conversations = []
    for row in range(count):
        turns = []
        for column in range(phase.turns):
            own_id = _OWN_IDS + (phase_index << 34) + row * phase.turns + column
            group_id = _PREFIX_IDS + (phase_index << 34) + int(groups[row])
            shared = phase.prefix_tokens if column == 0 else 0
            segments = _prompt(int(inputs[row, column]), shared, group_id, own_id)
            think_s = float(thinks[row, column]) if column else 0.0
            turns.append(Turn(int(outputs[row, column]), segments, think_s=think_s))
        conversations.append(tuple(turns))
    return conversations


def _prompt(num_tokens: int, num_shared: int, group_id: int, own_id: int) -> tuple[Segment, ...]:
    """At least one token is the prompt's own, so that no two prompts are the same."""
    num_shared = min(num_shared, num_tokens - 1)
    own = Segment(own_id, num_tokens - num_shared)
    return (Segment(group_id, num_shared), own) if num_shared else (own,)


def _describe(phases: Sequence[Phase], gaps: GapProcess) -> str:
    kind = f"gamma (burstiness {gaps.burstiness:g})" if gaps.name == "gamma" else gaps.name
    parts = []
    for phase in phases:
        first, last = phase.rates[0].start_rate, phase.rates[-1].end_rate
        rate = f"{first:g}" if first == last and len(phase.rates) == 1 else f"{first:g}..{last:g}"
        parts.append(f"{phase.name or 'requests'} {rate}/s for {phase.duration_s:g} s")
    return f"{kind} arrivals: {', '.join(parts)}"
