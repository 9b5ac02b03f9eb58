"""Acts on nothing: what is wanted becomes metrics, on which KEDA or an HPA act."""

from collections import Counter
from collections.abc import Callable, Mapping

from control_plane.actuators.actuator import ActuatorRefused, PoolStatus
from runtime.metrics import Metrics
from wire.messages import Role


class AdvisoryActuator:
    """An `Actuator` that exports `baton_control_desired_workers{role}` and touches nothing.

    serving: the live workers' roles by id.
    """

    def __init__(self, metrics: Metrics, serving: Callable[[], Mapping[str, Role]] = dict) -> None:
        self._metrics = metrics
        self._serving = serving
        self._wanted: dict[Role, int] = {}

    async def add(self, role: Role, count: int, hardware: str) -> None:
        """Raises ActuatorRefused always: whoever reads the metric adds."""
        raise ActuatorRefused(
            f"this control plane only advises: {count} more {role.value} workers are wanted, and "
            "the autoscaler that reads baton_control_desired_workers starts them"
        )

    async def remove(self, worker_id: str) -> None:
        """Raises ActuatorRefused always."""
        raise ActuatorRefused(
            f"this control plane only advises: it ends no worker, {worker_id} either; the "
            "autoscaler that reads baton_control_desired_workers does, or `baton drain`"
        )

    async def recommend(self, prefill: int, decode: int) -> None:
        self._wanted = {Role.PREFILL: prefill, Role.DECODE: decode}
        for role, count in self._wanted.items():
            self._metrics.gauge("baton_control_desired_workers", role=role.value).set(count)

    async def status(self) -> tuple[PoolStatus, ...]:
        """What is missing counts as starting: somebody else was told."""
        live = Counter(self._serving().values())
        wanted = {role: self._wanted.get(role, live[role]) for role in Role}
        return tuple(
            PoolStatus(role, wanted[role], live[role], max(0, wanted[role] - live[role]))
            for role in Role
        )

    async def close(self) -> None:
        """There is nothing to end."""
