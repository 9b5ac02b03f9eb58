"""Scales Deployments or LeaderWorkerSets; the pod that is to go is marked before they shrink."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes import client

from control_plane.actuators.actuator import ActuatorConflict, ActuatorRefused, PoolStatus
from control_plane.actuators.kube_api import call
from control_plane.actuators.kube_events import KubeEvents
from control_plane.actuators.kube_pods import KubePod, PodWatch
from runtime.log import get_logger
from wire.messages import Role

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_FIRST_TO_GO = "-1000000"
_CONFLICT_ATTEMPTS = 5
_LWS = ("leaderworkerset.x-k8s.io", "v1")
_log = get_logger("control_plane")


@dataclass(frozen=True, slots=True)
class KubeTarget:
    """What has one pool's replicas. kind: deployment or leaderworkerset."""

    kind: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "KubeTarget":
        """From KIND/NAME. Raises ValueError."""
        kind, _, name = text.partition("/")
        if kind.lower() not in ("deployment", "leaderworkerset") or not name:
            raise ValueError(f"{text!r} is not deployment/NAME or leaderworkerset/NAME")
        return cls(kind.lower(), name)

    @classmethod
    def parse_all(cls, text: str) -> "tuple[KubeTarget, ...]":
        """From several, parted by commas. Raises ValueError."""
        return tuple(cls.parse(one.strip()) for one in text.split(",")) if text else ()

    def is_of(self, hardware: str) -> bool:
        """As a worker is of the kind that its id, its pod's name, begins with."""
        return self.name == hardware or self.name.startswith(f"{hardware}-")

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class KubernetesActuator:
    """An `Actuator` over the scale subresource. A worker's id is the name of its pod.

    targets: those of a role are of different kinds of hardware, by the beginnings of their names.
    confirm: asked before each write, raises where this process leads no longer; a write carries
    the resourceVersion read after it, so that a leader that came since is never overwritten.
    wall_s: seconds since 1970; now_s: a monotonic clock; jitter: 0 to 1, for pauses. A pod that
    is unready for ready_timeout_s, from its start or since it ceased to be ready, is deleted, and
    its owner makes another one.
    """

    def __init__(
        self,
        api: client.ApiClient,
        namespace: str,
        targets: Mapping[Role, tuple[KubeTarget, ...]],
        *,
        wall_s: Callable[[], float],
        now_s: Callable[[], float],
        jitter: Callable[[], float],
        confirm: Callable[[], Awaitable[object]],
        ready_timeout_s: float = 600.0,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._targets = dict(targets)
        self._wall_s = wall_s
        self._now_s = now_s
        self._jitter = jitter
        self._confirm = confirm
        self._ready_timeout_s = ready_timeout_s
        self._core = client.CoreV1Api(api)
        self._events = KubeEvents(self._core, namespace, wall_s)
        self._watches: dict[KubeTarget, PodWatch] = {}
        self._wanted: dict[KubeTarget, int] = {}

    async def start(self) -> None:
        """Reads all targets and follows their pods. Raises ActuatorRefused for one that is not
        there or may not be read."""
        for _, target in self._every():
            scale = await self._read_scale(target)
            self._wanted[target] = scale["spec"].get("replicas", 0)
            selector = scale.get("status", {}).get("selector") or scale["status"]["hpaPodSelector"]
            self._watches[target] = PodWatch(
                self._core, self._namespace, selector, now_s=self._now_s, jitter=self._jitter
            )
            self._watches[target].start()

    async def add(self, role: Role, count: int, hardware: str) -> None:
        """Of several targets, scales the one of this kind of hardware."""
        target = self._target(role, hardware)
        size = await self._rescale(target, count)
        await self._events.tell(
            target, "BatonScaledUp", f"{count} more {role.value} workers: {size}"
        )

    async def remove(self, worker_id: str) -> None:
        """Marks the pod as the first to go, then takes one replica away."""
        target, pod = self._pod(worker_id)
        if target.kind == "leaderworkerset":
            self._check_is_last(target, pod)
        elif not pod.is_ending:
            await self._confirm()
            annotations = {"metadata": {"annotations": {DELETION_COST: _FIRST_TO_GO}}}
            await call(
                f"mark pod {pod.name}",
                self._core.patch_namespaced_pod,
                pod.name,
                self._namespace,
                annotations,
            )
        if pod.is_ending:
            return  # asked for before: its replica is gone already
        size = await self._rescale(target, -1)
        await self._events.tell(target, "BatonScaledDown", f"{pod.name} drains: {size} are left")

    async def recommend(self, prefill: int, decode: int) -> None:
        """Nobody else acts here."""

    async def status(self) -> tuple[PoolStatus, ...]:
        """From the watch, without a call; a server that does not answer is told in detail."""
        return tuple(self._status(role) for role in Role)

    async def close(self) -> None:
        for pods in self._watches.values():
            pods.stop()
        await asyncio.to_thread(self._api.close)

    async def replace_unready(self) -> tuple[str, ...]:
        """Deletes pods that took too long, so that others come; gives their names.

        It also looks how many replicas somebody else has set since.
        """
        replaced: list[str] = []
        for target, pods in self._watches.items():
            scale = await self._read_scale(target)
            self._wanted[target] = scale["spec"].get("replicas", 0)
            for pod in pods.pods():
                if not self._is_overdue(pod):
                    continue
                await self._confirm()
                options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=pod.uid))
                await call(
                    f"delete pod {pod.name}",
                    self._core.delete_namespaced_pod,
                    pod.name,
                    self._namespace,
                    body=options,
                )
                why = f"{pod.name} was not ready in {self._ready_timeout_s:.0f} s: {pod.why}"
                await self._events.tell(target, "BatonReplacedUnready", why)
                replaced.append(pod.name)
        return tuple(replaced)

    def _is_overdue(self, pod: KubePod) -> bool:
        unready_s = self._wall_s() - pod.changed_s
        return not pod.is_ready and not pod.is_ending and unready_s > self._ready_timeout_s

    def _status(self, role: Role) -> PoolStatus:
        targets = [target for target in self._targets.get(role, ()) if target in self._watches]
        pods = [p for target in targets for p in self._watches[target].pods() if not p.is_ending]
        late = [pod for pod in pods if self._is_overdue(pod)]
        ready = sum(pod.is_ready for pod in pods)
        wanted = sum(self._wanted[target] for target in targets)
        return PoolStatus(
            role=role,
            wanted=wanted,
            running=ready,
            starting=max(0, wanted - ready - len(late)),
            failed=len(late),
            detail="; ".join(f"{pod.name}: {pod.why or 'not ready'}" for pod in late),
        )

    def _every(self) -> Iterator[tuple[Role, KubeTarget]]:
        return ((role, target) for role, all_ in self._targets.items() for target in all_)

    def _target(self, role: Role, hardware: str) -> KubeTarget:
        targets = self._targets.get(role, ())
        if not targets:
            raise ActuatorRefused(f"no Deployment or LeaderWorkerSet is set for {role.value}")
        found = [target for target in targets if target.is_of(hardware)]
        if not found and hardware and len(targets) > 1:
            names = ", ".join(map(str, targets))
            raise ActuatorRefused(
                f"no {role.value} pool of kind {hardware!r} can be scaled; there are: {names}"
            )
        return (found or targets)[0]

    def _pod(self, worker_id: str) -> tuple[KubeTarget, KubePod]:
        for target, watched in self._watches.items():
            for pod in watched.pods():
                if pod.name == worker_id:
                    return target, pod
        raise ActuatorRefused(f"no pod {worker_id!r} belongs to the pools in {self._namespace}")

    def _check_is_last(self, target: KubeTarget, pod: KubePod) -> None:
        """A LeaderWorkerSet ends its group of the highest index first, whatever pods cost."""
        leaders = [known.name for known in self._watches[target].pods() if not known.is_ending]
        last = max(leaders, key=_index)
        if pod.name != last:
            raise ActuatorRefused(f"{target} ends its last group first: {last}, not {pod.name}")

    async def _rescale(self, target: KubeTarget, change: int) -> int:
        """Reads, confirms, writes; again after a conflict. Gives the new size."""
        for attempt in range(1, _CONFLICT_ATTEMPTS + 1):
            scale = await self._read_scale(target)
            await self._confirm()
            size: int = max(0, scale["spec"].get("replicas", 0) + change)
            scale["spec"]["replicas"] = size
            try:
                await self._write_scale(target, scale)
            except ActuatorConflict as conflict:
                if attempt == _CONFLICT_ATTEMPTS:
                    raise
                _log.info("scaling again", target=str(target), reason=str(conflict))
                continue
            self._wanted[target] = size
            return size
        raise AssertionError("the last attempt returns or raises")

    async def _read_scale(self, target: KubeTarget) -> dict[str, Any]:
        function = client.CustomObjectsApi(self._api).get_namespaced_custom_object_scale
        scale: dict[str, Any] = await call(f"read {target}", function, *self._path(target))
        return scale

    async def _write_scale(self, target: KubeTarget, scale: dict[str, Any]) -> None:
        function = client.CustomObjectsApi(self._api).replace_namespaced_custom_object_scale
        await call(f"scale {target}", function, *self._path(target), scale)

    def _path(self, target: KubeTarget) -> tuple[str, str, str, str, str]:
        group, version = _LWS if target.kind == "leaderworkerset" else ("apps", "v1")
        return (group, version, self._namespace, f"{target.kind}s", target.name)


def _index(name: str) -> int:
    """Of a LeaderWorkerSet's leader pod: NAME-3."""
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else -1
