"""What starts and ends workers, whatever runs them: processes, Ray, Kubernetes or nobody."""

from dataclasses import dataclass
from typing import Protocol

from wire.messages import Role


class ActuatorRefused(Exception):
    """The platform will not: a quota, a missing permission. The message is for an operator."""


class ActuatorConflict(Exception):
    """Somebody else changed the same thing meanwhile; the next tick may try again."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """One role's workers as the platform knows them.

    starting: asked for and not serving. failed: given up, with the reason in detail.
    """

    role: Role
    wanted: int
    running: int
    starting: int = 0
    failed: int = 0
    detail: str = ""


class Actuator(Protocol):
    """Acts on the platform alone: flips go through the registry to the worker.

    add and remove are safe to repeat for the same wish: the caller looks at status first. Both
    raise ActuatorRefused or ActuatorConflict, having changed nothing.
    """

    async def add(self, role: Role, count: int, hardware: str) -> None:
        """Asks for count more workers; they register when they serve."""

    async def remove(self, worker_id: str) -> None:
        """Drains this worker and ends it; the platform does not start it again."""

    async def recommend(self, prefill: int, decode: int) -> None:
        """Tells the platform what is wanted, where somebody else acts on it."""

    async def status(self) -> tuple[PoolStatus, ...]:
        """Both roles'."""

    async def close(self) -> None:
        """Ends connections; workers stay."""
