"""Faults in the cluster that runs on this host: its processes are found through its status."""

import asyncio
import contextlib
import os
import signal

from baton.state_dir import StateDir
from loadtest.errors import LoadtestError
from loadtest.faults import Fault
from wire import rpc
from wire.cluster import ClusterStatus

_FRESH_BEAT_S = 2.5


class LocalFaults:
    """Finds processes through the control plane. A victim is named by role, kind or name."""

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir
        self._pids: dict[str, int] = {}  # of victims, when the fault came
        self._frozen: dict[int, asyncio.TimerHandle] = {}  # by pid

    async def inject(self, fault: Fault) -> str:
        name, pid = _victim(fault.victim, await self._status())
        self._pids[name] = 0 if fault.kind == "freeze" else pid
        try:
            os.kill(pid, signal.SIGSTOP if fault.kind == "freeze" else signal.SIGKILL)
        except OSError as error:
            raise LoadtestError(f"cannot signal {name} (pid {pid}): {error.strerror}") from error
        if fault.kind == "freeze":
            loop = asyncio.get_running_loop()
            self._frozen[pid] = loop.call_later(fault.duration_s, self._thaw, pid)
        return name

    async def is_back(self, victim: str) -> bool:
        """A worker is back when a process other than the killed one beats under its name."""
        if self._frozen:
            return False
        try:
            status = await self._status()
        except LoadtestError:
            return False
        gone = self._pids[victim]
        beats = any(
            worker.info.worker_id == victim and worker.beat_age_s < _FRESH_BEAT_S
            for worker in status.workers
        )
        is_worker = any(worker.info.worker_id == victim for worker in status.workers)
        runs = any(
            process.name == victim and process.state == "running" and process.pid != gone
            for process in status.processes
        )
        return runs and (beats or not (is_worker or victim.startswith(("prefill", "decode"))))

    async def close(self) -> None:
        """Wakes what is frozen."""
        for pid in tuple(self._frozen):
            self._thaw(pid)

    def _thaw(self, pid: int) -> None:
        self._frozen.pop(pid).cancel()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    async def _status(self) -> ClusterStatus:
        state = self._state_dir.running()
        if state is None:
            raise LoadtestError("faults need a cluster that runs on this host")
        channel = rpc.open_channel(state.control_address)
        try:
            return await rpc.fetch_status(channel, state.cluster_token)
        except rpc.RpcError as error:
            raise LoadtestError(f"the control plane does not answer: {error.details()}") from error
        finally:
            await channel.close(None)


def _victim(wanted: str, status: ClusterStatus) -> tuple[str, int]:
    """Name and pid of the first process of that name, kind or role."""
    roles = {worker.info.worker_id: worker.info.role.value for worker in status.workers}
    for process in status.processes:
        names = (process.name, process.kind, roles.get(process.name))
        if wanted in names and process.pid and process.state == "running":
            return process.name, process.pid
    known = ", ".join(process.name for process in status.processes)
    raise LoadtestError(f"no running process is {wanted!r}; there are {known}")
