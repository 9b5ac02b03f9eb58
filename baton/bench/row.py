"""One measured figure beside its baseline."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A median, and what the same run measured it against.

    failure: why there is no figure; empty where there is one.
    """

    name: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    ratio: float
    failure: str = ""


def failed_row(name: str, why: str) -> Row:
    return Row(name, float("nan"), "", "", float("nan"), float("nan"), why)
