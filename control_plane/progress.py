"""Tells gateways how far the pools are while requests may wait for a worker."""

import asyncio

from control_plane.actuators.actuator import Actuator, ActuatorConflict, ActuatorRefused
from control_plane.leadership import Leadership
from control_plane.registry import Registry
from runtime.log import get_logger
from wire.cluster import PoolProgress

_PERIOD_S = 1.0
_log = get_logger("control_plane")


class ProgressTeller:
    """Asks the platform only while a pool is empty, or while some that it was told of still start.

    What it told is taken back once all serve, so that later snapshots are as small as before.
    """

    def __init__(self, registry: Registry, actuator: Actuator, leadership: Leadership) -> None:
        self._registry = registry
        self._actuator = actuator
        self._leadership = leadership

    async def run(self) -> None:
        """Once a second, until cancelled; a platform that does not answer is asked again."""
        while True:
            try:
                await self.look()
            except (ActuatorRefused, ActuatorConflict, OSError) as error:
                _log.warning("the pools' progress is not known", reason=str(error))
            await asyncio.sleep(_PERIOD_S)

    async def look(self) -> None:
        """Of a process that does not lead, nobody hears."""
        if not self._leadership.term().is_me:
            return
        if len(self._registry.sizes()) == 2 and not self._registry.pools:
            return
        status = await self._actuator.status()
        lacks = any(pool.starting or pool.wanted > pool.running for pool in status)
        told = [
            PoolProgress(pool.role, pool.wanted, pool.running, pool.starting) for pool in status
        ]
        self._registry.tell_pools(tuple(told) if lacks else ())
