"""Keeps the wanted number of processes of each kind alive on this host."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from control_plane.actuators.kept_process import KeptProcess
from control_plane.actuators.output import ProcessOutput
from control_plane.actuators.process_spec import (
    ProcessExit,
    ProcessSpec,
    ProcessState,
    RestartPolicy,
)
from runtime.clock import Clock
from wire.cluster import ProcessStatus

Template = Callable[[int], ProcessSpec]


class LocalActuator:
    """Starts, restarts and stops child processes, each by its own process id.

    templates: from a kind to its specs by number. log_dir None passes the output through.
    on_exit hears of every end. Whoever scales up calls `stop` at the end.
    """

    def __init__(
        self,
        templates: Mapping[str, Template],
        clock: Clock,
        *,
        log_dir: Path | None = None,
        policy: RestartPolicy | None = None,
        on_exit: Callable[[ProcessExit], None] = lambda exit: None,
    ) -> None:
        self._templates = templates
        self._clock = clock
        self._log_dir = log_dir
        self._policy = policy or RestartPolicy()
        self._on_exit = on_exit
        self._kept: dict[tuple[str, int], KeptProcess] = {}

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

    async def stop(self, *kinds: str) -> None:
        """Stops all processes of these kinds (of every kind if none is named) at the same time."""
        wanted = kinds or tuple(self._templates)
        await self._stop_all([key for key in self._kept if key[0] in wanted])

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

    def _start(self, kind: str, number: int) -> None:
        spec = self._templates[kind](number)
        log = self._log_dir / f"{spec.name}.log" if self._log_dir else None
        kept = KeptProcess(spec, self._clock, ProcessOutput(log), self._policy, self._on_exit)
        self._kept[kind, number] = kept
        kept.start()

    async def _stop_all(self, keys: list[tuple[str, int]]) -> None:
        await asyncio.gather(*(self._kept[key].stop() for key in keys))
        for key in keys:
            del self._kept[key]
