"""Workers that something else than this process starts and ends for `baton up`."""

from typing import Protocol

from control_plane.actuators.actuator import Actuator
from wire.cluster import ProcessStatus


class RemoteWorkers(Protocol):
    """Whoever connects stops."""

    actuator: Actuator

    async def connect(self) -> str:
        """Gives the address at which the platform's nodes reach this host. Raises
        ActuatorRefused."""

    async def look_after(self) -> tuple[str, ...]:
        """Asks how the workers are, and replaces those that are late; gives their names."""

    def failure(self) -> str:
        """Why the workers will not start, empty while they may."""

    def processes(self) -> tuple[ProcessStatus, ...]:
        """As they were heard last."""

    async def stop(self) -> None:
        """Ends the workers, then leaves the platform."""
