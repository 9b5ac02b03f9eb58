"""One process that is started, watched, started again when it dies, and stopped."""

import asyncio
import contextlib
import subprocess
from collections.abc import Callable

from control_plane.actuators.output import ProcessOutput
from control_plane.actuators.process_spec import (
    ProcessExit,
    ProcessSpec,
    ProcessState,
    RestartPolicy,
)
from runtime.clock import Clock
from runtime.settings import child_environment
from wire.cluster import ProcessStatus

_NO_SUCH_PROGRAM = 127


class KeptProcess:
    """Owns one process at a time, from `start` to the end of `stop`.

        STARTING --spawned--> RUNNING --died--> STARTING (after a backoff) | FAILED (given up)
        any --stop--> STOPPING --> no process

    on_exit is called for every end, also for one that was asked for.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        clock: Clock,
        output: ProcessOutput,
        policy: RestartPolicy,
        on_exit: Callable[[ProcessExit], None],
    ) -> None:
        self.spec = spec
        self.state = ProcessState.STARTING
        self._clock = clock
        self._output = output
        self._policy = policy
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._started_at_s = clock.now()
        self._num_starts = 0
        self._quick_deaths = 0
        self._stop_asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=f"keep-{self.spec.name}")

    async def stop(self) -> None:
        """SIGTERM, the drain time, then SIGKILL; returns when nothing of it runs any more."""
        self.state = ProcessState.STOPPING
        self._stop_asked.set()
        if self._task is not None:
            await self._end_process()
            await self._task

    def kill(self) -> None:
        """SIGKILL now; a `stop` that is under way returns."""
        self._signal("kill")

    def give_up_on(self, reason: str) -> None:
        """SIGKILL for this start of it, with the reason as its last line; it starts again."""
        self._output.write(f"{self.spec.name} {reason}\n")
        self.kill()

    @property
    def status(self) -> ProcessStatus:
        running = self._process is not None and self._process.returncode is None
        return ProcessStatus(
            name=self.spec.name,
            kind=self.spec.kind,
            pid=self._process.pid if self._process is not None and running else 0,
            state=self.state.value,
            num_restarts=max(0, self._num_starts - 1),
            uptime_s=self._clock.now() - self._started_at_s if running else 0.0,
            detail="" if running else self._output.last_line(),
        )

    async def _keep(self) -> None:
        while not self._stop_asked.is_set():
            exit_code = await self._run_once()
            if self._stop_asked.is_set():
                self._tell_exit(exit_code, was_asked=True, will_restart=False)
                return
            delay_s = self._count_death()
            self._tell_exit(exit_code, was_asked=False, will_restart=delay_s is not None)
            if delay_s is None:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_asked.wait(), delay_s)

    async def _run_once(self) -> int:
        """Starts the process and gives its exit code once it has ended."""
        self._num_starts += 1
        self._started_at_s = self._clock.now()
        try:
            self._process = await self._spawn()
        except OSError as error:
            self._output.write(f"cannot start {self.spec.argv[0]}: {error}\n")
            self._process = None
            return _NO_SUCH_PROGRAM
        if self._stop_asked.is_set():  # stop() came while the process was being spawned
            self._signal("terminate")
        else:
            self.state = ProcessState.RUNNING
        return await self._process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        """In a session of its own: a Ctrl-C on the terminal reaches only this process, which
        stops the others in order."""
        with self._output.open() as sink:
            return await asyncio.create_subprocess_exec(
                *self.spec.argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=child_environment(self.spec.env),
                start_new_session=True,
            )

    def _count_death(self) -> float | None:
        """The wait before the next start, None when the process is given up."""
        uptime_s = self._clock.now() - self._started_at_s
        self._quick_deaths = self._policy.quick_deaths(self._quick_deaths, uptime_s)
        delay_s = self._policy.delay_s(self._quick_deaths)
        self.state = ProcessState.FAILED if delay_s is None else ProcessState.STARTING
        return delay_s

    def _tell_exit(self, exit_code: int, *, was_asked: bool, will_restart: bool) -> None:
        self._on_exit(
            ProcessExit(
                name=self.spec.name,
                kind=self.spec.kind,
                pid=self._process.pid if self._process is not None else 0,
                exit_code=exit_code,
                uptime_s=self._clock.now() - self._started_at_s,
                last_line=self._output.last_line(),
                was_asked=was_asked,
                will_restart=will_restart,
            )
        )

    async def _end_process(self) -> None:
        self._signal("terminate")
        assert self._task is not None
        done, _ = await asyncio.wait({self._task}, timeout=self.spec.drain_s)
        if not done:
            self._signal("kill")

    def _signal(self, what: str) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                getattr(process, what)()
