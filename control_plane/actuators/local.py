"""Keeps the wanted number of processes of each kind alive on this host."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

from control_plane.actuators.actuator import ActuatorRefused, PoolStatus
from control_plane.actuators.kept_process import KeptProcess
from control_plane.actuators.output import ProcessOutput
from control_plane.actuators.pool_count import pool_status
from control_plane.actuators.process_spec import (
    ProcessExit,
    ProcessSpec,
    ProcessState,
    RestartPolicy,
)
from runtime.clock import Clock
from wire.cluster import ProcessStatus
from wire.messages import Role

Template = Callable[[int], ProcessSpec]


class LocalActuator:
    """Starts, restarts and stops child processes, each by its own process id. An `Actuator`.

    templates: from a kind to its specs by number; the kinds of workers are the roles' names.
    log_dir None passes the output through. on_exit hears of every end. max_workers: the quota of
    workers, 0: none. serving: the live workers' roles by id, which tell who has become ready.
    ready_timeout_s: a worker that is not ready by then is killed and started again; 0: never.
    Whoever scales up calls `stop` at the end.
    """

    def __init__(
        self,
        templates: Mapping[str, Template],
        clock: Clock,
        *,
        log_dir: Path | None = None,
        policy: RestartPolicy | None = None,
        on_exit: Callable[[ProcessExit], None] = lambda exit: None,
        max_workers: int = 0,
        serving: Callable[[], Mapping[str, Role]] = dict,
        ready_timeout_s: float = 0.0,
    ) -> None:
        self._templates = templates
        self._clock = clock
        self._log_dir = log_dir
        self._policy = policy or RestartPolicy()
        self._on_exit = on_exit
        self._max_workers = max_workers
        self._serving = serving
        self._ready_timeout_s = ready_timeout_s
        self._kept: dict[tuple[str, int], KeptProcess] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def scale(self, kind: str, count: int) -> None:
        """Has processes 0 .. count - 1 of a kind: starts the missing ones, stops the others.

        Those that were given up are started anew.
        """
        assert kind in self._templates, f"no template for {kind!r}"
        unwanted = [
            (of_kind, number)
            for (of_kind, number), kept in self._kept.items()
            if of_kind == kind and (number >= count or kept.state is ProcessState.FAILED)
        ]
        await self._stop_all(unwanted)
        for number in range(count):
            if (kind, number) not in self._kept:
                self._start(kind, number)

    async def add(self, role: Role, count: int, hardware: str) -> None:
        """Starts count workers under the lowest free numbers; all of them are of this host's kind.

        Raises ActuatorRefused over the quota.
        """
        kept = len(self._worker_keys())
        if self._max_workers and kept + count > self._max_workers:
            raise ActuatorRefused(
                f"the quota of this host is {self._max_workers} workers and {kept} are kept, so "
                f"{count} more cannot be started; --max-workers sets it"
            )
        given_up = [key for key in self._worker_keys() if self._has_failed(key)]
        await self._stop_all([key for key in given_up if key[0] == role.value][:count])
        free = (n for n in itertools.count() if (role.value, n) not in self._kept)
        for number in itertools.islice(free, count):
            self._start(role.value, number)

    async def remove(self, worker_id: str) -> None:
        """Begins to drain and end the process of that name, and returns.

        Raises ActuatorRefused for a worker that is not kept here.
        """
        key = next((key for key in self._worker_keys() if self._name(key) == worker_id), None)
        if key is None:
            names = ", ".join(self._name(key) for key in self._worker_keys()) or "none"
            raise ActuatorRefused(f"no process {worker_id!r} is kept here; there are: {names}")
        if self._kept[key].state is not ProcessState.STOPPING:
            leaving = asyncio.create_task(self._stop_all([key]), name=f"remove-{worker_id}")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            await asyncio.sleep(0)  # its state is STOPPING when this returns

    async def recommend(self, prefill: int, decode: int) -> None:
        """Nobody else acts on this host."""

    async def status(self) -> tuple[PoolStatus, ...]:
        workers = [status for status in self.processes() if status.kind in tuple(Role)]
        return pool_status(workers, self._serving())

    async def close(self) -> None:
        await self.stop()

    def replace_unready(self) -> tuple[str, ...]:
        """Kills workers that did not register in time; each counts as a death, and is started
        again until it is given up. Gives their names."""
        if not self._ready_timeout_s:
            return ()
        serving = self._serving()
        overdue = [
            kept
            for key in self._worker_keys()
            if (kept := self._kept[key]).spec.name not in serving
            and kept.state is ProcessState.RUNNING
            and kept.status.uptime_s > self._ready_timeout_s
        ]
        for kept in overdue:
            kept.give_up_on(f"was not ready in {self._ready_timeout_s:.0f} s")
        return tuple(kept.spec.name for kept in overdue)

    async def stop(self, *kinds: str) -> None:
        """Stops all processes of these kinds (of every kind if none is named) at the same time."""
        wanted = kinds or tuple(self._templates)
        await self._stop_all([key for key in self._kept if key[0] in wanted])
        if self._leaving and not self._kept:
            await asyncio.gather(*self._leaving)

    def kill(self) -> None:
        """SIGKILL for everything, for a second Ctrl-C; `stop` still has to collect it."""
        for kept in self._kept.values():
            kept.kill()

    def processes(self) -> tuple[ProcessStatus, ...]:
        """Every kept process, also those that wait for a restart or were given up."""
        return tuple(self._kept[key].status for key in sorted(self._kept))

    def check_integrity(self) -> None:
        """Asserts that names are unique and that no process id is kept twice."""
        statuses = self.processes()
        names = [status.name for status in statuses]
        pids = [status.pid for status in statuses if status.pid]
        assert len(set(names)) == len(names), names
        assert len(set(pids)) == len(pids), pids

    def _worker_keys(self) -> list[tuple[str, int]]:
        return sorted(key for key in self._kept if key[0] in tuple(Role))

    def _name(self, key: tuple[str, int]) -> str:
        return self._kept[key].spec.name

    def _has_failed(self, key: tuple[str, int]) -> bool:
        return self._kept[key].state is ProcessState.FAILED

    def _start(self, kind: str, number: int) -> None:
        spec = self._templates[kind](number)
        log = self._log_dir / f"{spec.name}.log" if self._log_dir else None
        kept = KeptProcess(spec, self._clock, ProcessOutput(log), self._policy, self._on_exit)
        self._kept[kind, number] = kept
        kept.start()

    async def _stop_all(self, keys: list[tuple[str, int]]) -> None:
        stopping = {key: self._kept[key] for key in keys}
        await asyncio.gather(*(kept.stop() for kept in stopping.values()))
        for key, kept in stopping.items():
            if self._kept.get(key) is kept:  # two stops of one process may overlap
                del self._kept[key]
