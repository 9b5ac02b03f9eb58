"""One measured figure beside its baseline."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A median, and what the same run measured it against."""

    name: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    ratio: float
