"""Classes of requests: which requests are of one, what was promised them, who goes first."""

from collections.abc import Sequence
from dataclasses import dataclass

_SPREAD = 0x9E3779B97F4A7C15  # Fibonacci hashing: neighbours fall far apart
_BITS = 64


@dataclass(frozen=True, slots=True)
class SloClass:
    """match: of a workload's class name. share: of the requests that no match takes, by index.

    priority: as in GenerateRequest, lower numbers first.
    """

    name: str
    ttft_ms: float
    tpot_ms: float
    share: float = 0.0
    match: str = ""
    priority: int = 0


def class_of(classes: Sequence[SloClass], class_name: str, conversation: int) -> SloClass | None:
    """All turns of a conversation are of one class. None: no class takes it."""
    for one in classes:
        if one.match and one.match == class_name:
            return one
    place = ((conversation + 1) * _SPREAD % (1 << _BITS)) / (1 << _BITS)
    for one in classes:
        if one.share:
            place -= one.share
            if place < 0:
                return one
    return None
