"""Durations and rates as people write them: 30s, 500ms, 2m; 5 or 2..20 requests a second."""

import re

from loadtest.errors import LoadtestError

_UNITS_S = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def parse_duration_s(text: str) -> float:
    """Seconds; a number without a unit is seconds. Raises LoadtestError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or match[2] not in _UNITS_S:
        raise LoadtestError(f"{text!r} is not a duration such as 30s, 500ms or 2m")
    return float(match[1]) * _UNITS_S[match[2]]


def parse_rate(text: str) -> tuple[float, float]:
    """Rate at the start and at the end, in requests a second: `5` or `2..20`."""
    first, dots, last = text.strip().partition("..")
    try:
        start = float(first)
        end = float(last) if dots else start
    except ValueError:
        raise LoadtestError(f"{text!r} is not a rate such as 5 or 2..20") from None
    if not (0 <= start < float("inf") and 0 <= end < float("inf")) or start + end == 0:
        raise LoadtestError(f"the rate {text!r} must be positive and finite")
    return start, end
