"""The largest rate that a server sustains: doubled until it fails, then halved in between."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Probe = Callable[[float], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Sweep:
    """best_rate: the largest that held; 0: none did. is_bounded: a larger one was seen to fail."""

    best_rate: float
    is_bounded: bool
    tried: tuple[tuple[float, bool], ...] = field(default=())


async def largest_rate(
    holds: Probe, first_rate: float, max_rate: float, tolerance: float = 0.1
) -> Sweep:
    """Asks `holds` at rising rates and then between the last that held and the first that failed.

    first_rate: where it starts; when that fails, smaller ones are tried down to a 64th of it.
    tolerance: the answer is at most this share below the true one, if holding is monotone in the
    rate and not noisy.
    """
    assert 0 < first_rate <= max_rate and tolerance > 0
    tried: list[tuple[float, bool]] = []

    async def ask(rate: float) -> bool:
        held = await holds(rate)
        tried.append((rate, held))
        return held

    low, high = await _bracket(ask, first_rate, max_rate)
    while low and high and high / low > 1 + tolerance:
        middle = (low * high) ** 0.5
        if await ask(middle):
            low = middle
        else:
            high = middle
    return Sweep(low, high > 0, tuple(tried))


async def _bracket(ask: Probe, first_rate: float, max_rate: float) -> tuple[float, float]:
    """The last rate that held and the first that failed; 0 where there is none."""
    rate = first_rate
    if not await ask(rate):
        while rate > first_rate / 64:
            rate /= 2
            if await ask(rate):
                return rate, rate * 2
        return 0.0, rate
    while rate < max_rate:
        following = min(rate * 2, max_rate)
        if not await ask(following):
            return rate, following
        rate = following
    return rate, 0.0
