"""The workers of a `baton up` as Ray actors: on this host, or on the nodes of a cluster."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

from baton.up_config import UpConfig
from control_plane.actuators.actuator import Actuator
from control_plane.actuators.process_spec import ProcessSpec
from control_plane.actuators.ray import RayActuator, RayNeeds
from control_plane.actuators.ray_cluster import disconnect, join
from runtime.clock import Clock
from runtime.lifecycle import new_id
from wire.cluster import ProcessStatus
from wire.messages import Role

_FAILED_STARTS = 3


class RayWorkers:
    """`RemoteWorkers` on Ray. The actors end with this process: nothing outlives `baton up`."""

    def __init__(
        self,
        config: UpConfig,
        clock: Clock,
        templates: Mapping[Role, Callable[[int], ProcessSpec]],
        serving: Callable[[], Mapping[str, Role]],
    ) -> None:
        self._address, self._wait_s = config.ray_address, config.ray_wait_s
        self._clock = clock
        self._namespace = new_id("baton")
        self._actors = RayActuator(
            {
                role: _on_a_node(template, bool(self._address))
                for role, template in templates.items()
            },
            clock,
            namespace=self._namespace,
            needs=RayNeeds(config.ray_cpus, config.ray_gpus),
            max_workers=config.worker_quota,
            serving=serving,
            ready_timeout_s=config.ready_timeout_s,
            detached=False,
        )
        self.actuator: Actuator = self._actors

    async def connect(self) -> str:
        """Gives this node's address. Raises ActuatorRefused."""
        return await join(self._address, self._namespace, self._clock, self._wait_s)

    async def stop(self) -> None:
        """Ends the actors, then leaves the cluster."""
        await self._actors.close()
        self._actors.check_integrity()
        await disconnect()

    async def look_after(self) -> tuple[str, ...]:
        """Asks how the actors are, and replaces those that are late; gives their names."""
        return await self._actors.replace_unready()

    def failure(self) -> str:
        """Why a worker cannot start: it has died several times, and nothing says it will not."""
        for status in self.processes():
            if status.num_restarts >= _FAILED_STARTS:
                return f"{status.name} ended {status.num_restarts} times: {status.detail}"
        return ""

    def processes(self) -> tuple[ProcessStatus, ...]:
        return self._actors.processes()


def _on_a_node(
    template: Callable[[int], ProcessSpec], spans_hosts: bool
) -> Callable[[int], ProcessSpec]:
    """The spec with the node's interpreter and address, and the actor as the parent."""

    def spec(number: int) -> ProcessSpec:
        given = template(number)
        words = list(given.argv)
        if words[0] == sys.executable:
            words[0] = "{python}"
        words[words.index("--parent-pid") + 1] = "{pid}"
        if spans_hosts:
            words[words.index("--host") + 1] = "{host}"
        return replace(given, argv=tuple(words))

    return spec
