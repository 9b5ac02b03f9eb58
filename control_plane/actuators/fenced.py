"""Around an actuator: only the confirmed leader changes anything."""

from control_plane.actuators.actuator import Actuator, PoolStatus
from control_plane.leadership import Leadership
from wire.messages import Role


class FencedActuator:
    """An `Actuator` that asks the store for its term before each change. Raises NotLeader.

    A process that was paused past its lease wakes, asks, and learns that it is no leader any more.
    """

    def __init__(self, actuator: Actuator, leadership: Leadership) -> None:
        self._actuator = actuator
        self._leadership = leadership

    async def add(self, role: Role, count: int, hardware: str) -> None:
        await self._leadership.confirm()
        await self._actuator.add(role, count, hardware)

    async def remove(self, worker_id: str) -> None:
        await self._leadership.confirm()
        await self._actuator.remove(worker_id)

    async def recommend(self, prefill: int, decode: int) -> None:
        """Of the leader; another process's wish is not told to anybody."""
        if self._leadership.term().is_me:
            await self._actuator.recommend(prefill, decode)

    async def status(self) -> tuple[PoolStatus, ...]:
        return await self._actuator.status()

    async def close(self) -> None:
        await self._actuator.close()
