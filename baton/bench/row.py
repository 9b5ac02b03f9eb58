"""One measured figure beside its baseline."""

from collections.abc import Callable, Sequence
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


class NoDeviceError(RuntimeError):
    """This host lacks the device that a bench measures."""


def failed_row(name: str, why: str) -> Row:
    return Row(name, float("nan"), "", "", float("nan"), float("nan"), why)


def rows_or_reason(name: str, measure: Callable[[], Sequence[Row]]) -> list[Row]:
    """The rows, or one of this name with what kept them from being measured."""
    try:
        return list(measure())
    except Exception as error:
        return [failed_row(name, f"{type(error).__name__}: {error}")]
