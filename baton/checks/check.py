"""One finding of `baton doctor`."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Only a failure says that Baton cannot serve here."""

    OK = "ok"
    WARNING = "warning"  # works with a loss, or only after what the detail names
    ABSENT = "absent"  # optional, and not there
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: State
    detail: str
