"""What a local process is, how it is restarted, and what is told when it ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ProcessState(StrEnum):
    """Where a kept process stands; STARTING is also the wait before a restart."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process to keep. env is added to this process's environment.

    drain_s: how long it may take to end after SIGTERM before SIGKILL.
    """

    name: str
    kind: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    drain_s: float = 5.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Exponential backoff; a process that ran for `healthy_s` starts again from the first delay.

    max_quick_deaths: after so many deaths in a row, none of them healthy, it is given up.
    """

    first_delay_s: float = 0.2
    max_delay_s: float = 5.0
    healthy_s: float = 30.0
    max_quick_deaths: int = 8

    def quick_deaths(self, before: int, uptime_s: float) -> int:
        """The count after a death at `uptime_s`."""
        return 1 if uptime_s >= self.healthy_s else before + 1

    def delay_s(self, quick_deaths: int) -> float | None:
        """The wait before the next start; None gives the process up."""
        if quick_deaths >= self.max_quick_deaths:
            return None
        return min(self.max_delay_s, self.first_delay_s * 2.0 ** (quick_deaths - 1))


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """The end of a process. exit_code is negative for a signal.

    was_asked: the end of a stop, which is never followed by a restart.
    last_line: the last line that it wrote, empty where its output is not kept.
    """

    name: str
    kind: str
    pid: int
    exit_code: int
    uptime_s: float
    last_line: str
    was_asked: bool
    will_restart: bool
