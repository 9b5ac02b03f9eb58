"""Events beside the objects that Baton changes, for `kubectl describe` and its readers."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from kubernetes import client

from control_plane.actuators.actuator import ActuatorConflict, ActuatorRefused
from control_plane.actuators.kube_api import call
from runtime.log import get_logger

_log = get_logger("control_plane")


class Target(Protocol):
    """A Deployment or LeaderWorkerSet."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...


class KubeEvents:
    """Writes Events; one that cannot be written is logged and changes nothing else."""

    def __init__(self, core: client.CoreV1Api, namespace: str, wall_s: Callable[[], float]) -> None:
        self._core = core
        self._namespace = namespace
        self._wall_s = wall_s

    async def tell(self, target: Target, reason: str, message: str) -> None:
        at = datetime.fromtimestamp(self._wall_s(), UTC)
        is_lws = target.kind == "leaderworkerset"
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name="baton-", namespace=self._namespace),
            involved_object=client.V1ObjectReference(
                api_version="leaderworkerset.x-k8s.io/v1" if is_lws else "apps/v1",
                kind="LeaderWorkerSet" if is_lws else "Deployment",
                name=target.name,
                namespace=self._namespace,
            ),
            type="Normal",
            reason=reason,
            message=message,
            source=client.V1EventSource(component="baton"),
            first_timestamp=at,
            last_timestamp=at,
            count=1,
        )
        try:
            await call("write an event", self._core.create_namespaced_event, self._namespace, event)
        except (ActuatorRefused, ActuatorConflict) as error:
            _log.warning("no event was written", reason=str(error))
