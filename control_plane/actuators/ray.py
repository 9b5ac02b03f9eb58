"""Keeps workers as detached Ray actors, each in a placement group of its own."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from control_plane.actuators.actuator import ActuatorConflict, ActuatorRefused, PoolStatus
from control_plane.actuators.pool_count import pool_status
from control_plane.actuators.process_spec import ProcessSpec, ProcessState
from control_plane.actuators.ray_worker import RayWorker
from runtime.clock import Clock
from runtime.log import get_logger
from wire.cluster import ProcessStatus
from wire.messages import Role

Template = Callable[[int], ProcessSpec]
_CALL_S = 10.0
_log = get_logger("control_plane")


@dataclass(slots=True)
class _Placed:
    """One actor. status: as last heard, None before the first answer."""

    name: str
    role: Role
    group: PlacementGroup
    actor: Any
    asked_at_s: float
    drain_s: float
    status: dict[str, Any] | None = None
    heard: bool = False
    stopping: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class RayNeeds:
    """What one worker reserves on its node."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)

    def bundle(self) -> dict[str, float]:
        needed = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return {name: amount for name, amount in needed.items() if amount > 0}


async def _no_term() -> int:
    return 0


class RayActuator:
    """An `Actuator`. Ray places, restarts and ends; requests, tokens and KV never pass it.

    templates: specs by number; in their argv {python}, {host} and {pid} are the actor's. serving:
    the live workers' roles by id. A worker that is not ready within ready_timeout_s is given up
    and placed anew. detached: the actors outlive this process. Whoever starts it stops it.
    confirm: asked before each change for this leader's fencing number, raises where this process
    leads no longer; an actor that has heard a higher one ends for nobody with a lower one.
    """

    def __init__(
        self,
        templates: Mapping[Role, Template],
        clock: Clock,
        *,
        namespace: str,
        needs: RayNeeds | None = None,
        max_workers: int = 0,
        serving: Callable[[], Mapping[str, Role]] = dict,
        ready_timeout_s: float = 600.0,
        detached: bool = True,
        confirm: Callable[[], Awaitable[int]] = _no_term,
    ) -> None:
        self._templates = templates
        self._clock = clock
        self._namespace = namespace
        self._needs = needs or RayNeeds()
        self._max_workers = max_workers
        self._serving = serving
        self._ready_timeout_s = ready_timeout_s
        self._lifetime = "detached" if detached else None
        self._confirm = confirm
        self._term = 0
        self._placed: dict[str, _Placed] = {}
        self._leaving: set[asyncio.Task[bool]] = set()

    async def add(self, role: Role, count: int, hardware: str) -> None:
        """Raises ActuatorRefused over the quota, or where no node could ever hold a worker."""
        kept = len(self._placed)
        if self._max_workers and kept + count > self._max_workers:
            raise ActuatorRefused(
                f"the quota is {self._max_workers} workers and {kept} are kept, so {count} more "
                "cannot be started; --max-workers sets it"
            )
        await asyncio.to_thread(self._check_nodes)
        self._term = await self._confirm()
        free = (n for n in itertools.count() if f"{role.value}-{n}" not in self._placed)
        for number in itertools.islice(free, count):
            await self._place(role, self._templates[role](number))

    async def remove(self, worker_id: str) -> None:
        """Begins to drain and end the worker, and returns."""
        placed = self._placed.get(worker_id)
        if placed is None:
            names = ", ".join(sorted(self._placed)) or "none"
            raise ActuatorRefused(f"no actor {worker_id!r} is kept; there are: {names}")
        if not placed.stopping:
            self._term = await self._confirm()
            placed.stopping = True
            leaving = asyncio.create_task(self._end(placed), name=f"remove-{worker_id}")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def recommend(self, prefill: int, decode: int) -> None:
        """Nobody else acts here."""

    async def status(self) -> tuple[PoolStatus, ...]:
        return pool_status(self.processes(), self._serving())

    async def close(self) -> None:
        """Ends every actor after its drain, all at the same time."""
        for name in tuple(self._placed):
            await self.remove(name)
        await asyncio.gather(*self._leaving)

    async def ended(self) -> None:
        """Until everything that drains has ended."""
        await asyncio.gather(*self._leaving)

    async def adopt(self) -> None:
        """Takes over actors of this namespace that another process has placed or left, and
        forgets those that another one has ended."""
        there = await asyncio.to_thread(self._find)
        for name in [n for n, placed in self._placed.items() if not placed.stopping]:
            if name not in there:
                del self._placed[name]
        for name, (group, actor) in there.items():
            role = next((role for role in Role if name.startswith(f"{role.value}-")), None)
            if name in self._placed or role is None:
                continue
            drain_s = self._templates[role](0).drain_s
            self._placed[name] = _Placed(name, role, group, actor, self._clock.now(), drain_s)
            _log.info("actor taken over", worker=name)

    async def refresh(self) -> None:
        """Asks every actor for its process; one that does not answer keeps what it said last."""
        await asyncio.gather(*(self._ask(placed) for placed in tuple(self._placed.values())))

    async def replace_unready(self) -> tuple[str, ...]:
        """Ends workers that took too long and places them anew; gives their names."""
        self._term = await self._confirm()
        await self.refresh()
        serving = self._serving()
        overdue = [
            placed
            for placed in self._placed.values()
            if placed.name not in serving
            and not placed.stopping
            and self._clock.now() - placed.asked_at_s > self._ready_timeout_s
        ]
        for placed in overdue:
            if not await self._end(placed):
                continue
            number = int(placed.name.rpartition("-")[2])
            await self._place(placed.role, self._templates[placed.role](number))
            self._placed[placed.name].why = f"not ready in {self._ready_timeout_s:.0f} s; again"
        for placed in self._placed.values():
            if placed.name in serving:
                placed.asked_at_s = self._clock.now()  # it has as long again if it is lost
        return tuple(placed.name for placed in overdue)

    def processes(self) -> tuple[ProcessStatus, ...]:
        """As they were heard last."""
        return tuple(self._process(self._placed[name]) for name in sorted(self._placed))

    def check_integrity(self) -> None:
        """Asserts that every actor has a name of its own role."""
        for name, placed in self._placed.items():
            assert name == placed.name and name.startswith(placed.role.value), name

    def _process(self, placed: _Placed) -> ProcessStatus:
        known = placed.status or {}
        pid = int(known.get("pid", 0)) if placed.heard else 0
        state = ProcessState.RUNNING if pid else ProcessState.STARTING
        return ProcessStatus(
            name=placed.name,
            kind=placed.role.value,
            pid=pid,
            state=(ProcessState.STOPPING if placed.stopping else state).value,
            num_restarts=max(0, int(known.get("num_starts", 1)) - 1),
            uptime_s=float(known.get("uptime_s", 0.0)) if pid else 0.0,
            detail=placed.why or str(known.get("last_line", "")),
        )

    async def _place(self, role: Role, spec: ProcessSpec) -> None:
        """Asks Ray for a place and the actor in it; both come when a node has room."""
        name = spec.name
        try:
            group, actor = await asyncio.to_thread(self._create, spec)
        except (ValueError, ray.exceptions.RayError) as error:
            raise ActuatorConflict(f"Ray cannot place {name}: {error}") from error
        now_s = self._clock.now()
        self._placed[name] = _Placed(name, role, group, actor, now_s, spec.drain_s)
        _log.info("actor placed", worker=name, needs=self._needs.bundle())

    def _create(self, spec: ProcessSpec) -> tuple[PlacementGroup, Any]:
        full = f"{self._namespace}:{spec.name}"
        group = placement_group([self._needs.bundle()], name=full, lifetime=self._lifetime)
        strategy = PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=0
        )
        wanted = ray.remote(RayWorker).options(
            name=full,
            namespace=self._namespace,
            lifetime=self._lifetime,
            num_cpus=self._needs.num_cpus,
            num_gpus=self._needs.num_gpus,
            resources=dict(self._needs.resources) or None,
            max_restarts=-1,
            max_concurrency=2,
            scheduling_strategy=strategy,
        )
        try:
            words, env = list(spec.argv), dict(spec.env)
            return group, wanted.remote(words, env, spec.drain_s, self._term)
        except ValueError:  # another control plane has placed the same worker
            remove_placement_group(group)
            raise

    def _find(self) -> dict[str, tuple[PlacementGroup, Any]]:
        """The actors of this namespace with their places, by worker."""
        prefix = f"{self._namespace}:"
        found = {}
        for full in ray.util.list_named_actors():
            if full.startswith(prefix):
                with contextlib.suppress(ValueError):  # it ends at this moment
                    actor = ray.get_actor(full, namespace=self._namespace)
                    group = ray.util.get_placement_group(full)
                    found[full.removeprefix(prefix)] = (group, actor)
        return found

    def _check_nodes(self) -> None:
        wanted = self._needs.bundle()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(k, 0.0) >= v for k, v in wanted.items()) for node in nodes):
            raise ActuatorRefused(
                f"no node of the Ray cluster has {wanted}; its {len(nodes)} nodes have "
                f"{[{k: v for k, v in node.items() if k in wanted} for node in nodes]}"
            )

    async def _ask(self, placed: _Placed) -> None:
        try:
            answer = placed.actor.status.remote(self._term)
            placed.status = await asyncio.to_thread(ray.get, answer, timeout=_CALL_S)
            placed.heard, placed.why = True, ""
        except ray.exceptions.GetTimeoutError:
            placed.heard, placed.why = False, "waits for a node with room"
        except ray.exceptions.RayError as error:
            placed.heard, placed.why = False, f"its actor does not answer: {type(error).__name__}"

    async def _end(self, placed: _Placed) -> bool:
        """The process drains, then actor and place go. An actor without a node is only removed.
        False where the actor obeys a later leader."""
        try:
            if placed.heard and not await self._drain(placed):
                _log.warning("actor kept: a later leader has spoken", worker=placed.name)
                placed.stopping = False
                return False
        except ray.exceptions.RayError as error:
            _log.warning("actor not drained", worker=placed.name, reason=type(error).__name__)
        await asyncio.to_thread(self._destroy, placed)
        if self._placed.get(placed.name) is placed:
            del self._placed[placed.name]
        return True

    async def _drain(self, placed: _Placed) -> bool:
        answer = placed.actor.stop.remote(self._term)
        return bool(await asyncio.to_thread(ray.get, answer, timeout=placed.drain_s + _CALL_S))

    def _destroy(self, placed: _Placed) -> None:
        ray.kill(placed.actor, no_restart=True)
        remove_placement_group(placed.group)
