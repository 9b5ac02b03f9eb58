"""Ray for a control plane of its own: actors that outlive it, and that the next one takes over."""

import shlex
from collections.abc import Awaitable, Callable, Mapping

from control_plane.actuators.actuator import ActuatorRefused, PoolStatus
from control_plane.actuators.process_spec import ProcessSpec
from control_plane.actuators.ray import RayActuator, RayNeeds
from control_plane.actuators.ray_cluster import connect, disconnect
from control_plane.config import ControlConfig
from runtime.clock import Clock
from wire.messages import Role

_DRAIN_S = 60.0


class RayPlatform:
    """An `Actuator` for `baton control`. serving: the live workers' roles by id. confirm: gives
    this leader's fencing number, raises NotLeader.

    Several control planes may keep the same actors: each looks which there are before it acts.
    """

    def __init__(
        self,
        config: ControlConfig,
        clock: Clock,
        serving: Callable[[], Mapping[str, Role]],
        confirm: Callable[[], Awaitable[int]],
    ) -> None:
        self._address = config.ray_address
        self._namespace = config.ray_namespace
        self._actors = RayActuator(
            {role: _template(config, role) for role in Role},
            clock,
            namespace=config.ray_namespace,
            needs=RayNeeds(config.ray_cpus, config.ray_gpus),
            serving=serving,
            ready_timeout_s=config.ready_timeout_s,
            confirm=confirm,
        )

    async def start(self) -> None:
        """Joins the cluster and takes over what is there. Raises ActuatorRefused."""
        if not self._address:
            raise ActuatorRefused("the Ray actuator needs --ray-address, HOST:PORT or auto")
        await connect(self._address, self._namespace)
        await self._actors.adopt()

    async def add(self, role: Role, count: int, hardware: str) -> None:
        await self._actors.adopt()
        await self._actors.add(role, count, hardware)

    async def remove(self, worker_id: str) -> None:
        await self._actors.adopt()
        await self._actors.remove(worker_id)

    async def recommend(self, prefill: int, decode: int) -> None:
        """Nobody else acts here."""

    async def status(self) -> tuple[PoolStatus, ...]:
        return await self._actors.status()

    async def replace_unready(self) -> tuple[str, ...]:
        await self._actors.adopt()
        return await self._actors.replace_unready()

    async def close(self) -> None:
        """Leaves the cluster after what drains has ended; the other workers stay."""
        await self._actors.ended()
        await disconnect()


def _template(config: ControlConfig, role: Role) -> Callable[[int], ProcessSpec]:
    def spec(number: int) -> ProcessSpec:
        name = f"{role.value}-{number}"
        words = (
            *("{python}", "-m", "baton", role.value, "--worker-id", name),
            *("--host", "{host}", "--port", "0", "--parent-pid", "{pid}"),
            *("--control-address", config.ray_control_address),
            *shlex.split(config.ray_worker),
        )
        env = {"BATON_CLUSTER_TOKEN": config.cluster_token}
        return ProcessSpec(name, role.value, words, env, _DRAIN_S)

    return spec
