"""The local actuator with real child processes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from control_plane.actuators.local import LocalActuator
from control_plane.actuators.process_spec import ProcessExit, ProcessSpec, RestartPolicy
from runtime.clock import SystemClock
from wire.cluster import ProcessStatus

PYTHON = (sys.executable, "-S", "-E", "-c")
WAIT = "import signal; signal.pause()"
# says when its handler stands, then notes its end in a file
GRACEFUL = """
import signal, sys
def end(*_):
    open(sys.argv[1], "a").write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
signal.pause()
"""
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: signal.pause()
"""
FAILS = "import sys; print('model.safetensors: is cut short', file=sys.stderr); sys.exit(3)"
FAST = RestartPolicy(first_delay_s=0.01, max_delay_s=0.05, max_quick_deaths=3)


def spec_of(kind: str, *argv: str, drain_s: float = 5.0) -> Callable[[int], ProcessSpec]:
    return lambda number: ProcessSpec(
        name=f"{kind}-{number}", kind=kind, argv=(*PYTHON, *argv), drain_s=drain_s
    )


class Exits:
    """The ends that an actuator told of, to wait for."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[ProcessExit] = asyncio.Queue()

    async def next(self) -> ProcessExit:
        return await asyncio.wait_for(self.seen.get(), 20)


@contextlib.asynccontextmanager
async def keeping(
    tmp_path: Path, policy: RestartPolicy = FAST, **templates: Callable[[int], ProcessSpec]
) -> AsyncIterator[tuple[LocalActuator, Exits]]:
    exits = Exits()
    actuator = LocalActuator(
        templates, SystemClock(), log_dir=tmp_path, policy=policy, on_exit=exits.seen.put_nowait
    )
    try:
        yield actuator, exits
    finally:
        pids = [status.pid for status in actuator.processes() if status.pid]
        await actuator.stop()
        actuator.check_integrity()
        assert actuator.processes() == ()
        assert not [pid for pid in pids if psutil.pid_exists(pid)]


async def until(
    actuator: LocalActuator, wanted: Callable[[tuple[ProcessStatus, ...]], bool]
) -> tuple[ProcessStatus, ...]:
    async with asyncio.timeout(60):
        while not wanted(actuator.processes()):
            await asyncio.sleep(0.01)
    return actuator.processes()


def all_running(statuses: tuple[ProcessStatus, ...]) -> bool:
    return all(status.state == "running" for status in statuses)


async def until_written(log: Path, text: str = "ready") -> None:
    async with asyncio.timeout(60):
        while not log.exists() or text not in log.read_text():
            await asyncio.sleep(0.01)


async def test_scaling_starts_the_missing_numbers_and_stops_the_others(tmp_path: Path):
    async with keeping(tmp_path, worker=spec_of("worker", WAIT)) as (actuator, _):
        await actuator.scale("worker", 3)
        before = await until(actuator, all_running)
        assert [status.name for status in before] == ["worker-0", "worker-1", "worker-2"]
        await actuator.scale("worker", 1)
        (left,) = actuator.processes()
        assert left.pid == before[0].pid
        assert not psutil.pid_exists(before[2].pid)
        await actuator.scale("worker", 2)
        assert [status.name for status in actuator.processes()] == ["worker-0", "worker-1"]


async def test_a_killed_process_is_reported_and_started_again(tmp_path: Path):
    async with keeping(tmp_path, worker=spec_of("worker", WAIT)) as (actuator, exits):
        await actuator.scale("worker", 1)
        (first,) = await until(actuator, all_running)
        os.kill(first.pid, signal.SIGKILL)
        end = await exits.next()
        assert (end.pid, end.exit_code, end.will_restart) == (first.pid, -signal.SIGKILL, True)
        (second,) = await until(actuator, lambda s: all_running(s) and s[0].pid != first.pid)
        assert second.num_restarts == 1


async def test_a_process_that_keeps_dying_is_given_up_with_its_last_line(tmp_path: Path):
    async with keeping(tmp_path, worker=spec_of("worker", FAILS)) as (actuator, exits):
        await actuator.scale("worker", 1)
        ends = [await exits.next() for _ in range(FAST.max_quick_deaths)]
        assert {(end.exit_code, end.last_line) for end in ends} == {
            (3, "model.safetensors: is cut short")
        }
        assert [end.will_restart for end in ends] == [True, True, False]
        (status,) = actuator.processes()
        assert (status.state, status.pid, status.num_restarts) == ("failed", 0, 2)
        await actuator.scale("worker", 1)
        assert (await exits.next()).will_restart


async def test_a_program_that_does_not_exist_is_given_up_with_a_reason(tmp_path: Path):
    spec = ProcessSpec("worker-0", "worker", ("/nonexistent/program",))
    async with keeping(tmp_path, worker=lambda _: spec) as (actuator, exits):
        await actuator.scale("worker", 1)
        assert "/nonexistent/program" in (await exits.next()).last_line


async def test_kinds_stop_in_the_order_asked_for(tmp_path: Path):
    ends = tmp_path / "ends"
    templates = {
        kind: spec_of(kind, GRACEFUL, str(ends), kind) for kind in ("gateway", "prefill", "decode")
    }
    async with keeping(tmp_path, **templates) as (actuator, exits):
        for kind in templates:
            await actuator.scale(kind, 1)
            await until_written(tmp_path / f"{kind}-0.log")
        await actuator.stop("gateway")
        assert ends.read_text().split() == ["gateway"]
        await actuator.stop("prefill", "decode")
        assert sorted(ends.read_text().split()) == ["decode", "gateway", "prefill"]
        told = [await exits.next() for _ in templates]
        assert told[0].kind == "gateway"
        assert {(end.exit_code, end.was_asked, end.will_restart) for end in told} == {
            (0, True, False)
        }


async def test_a_process_deaf_to_sigterm_is_killed_after_its_drain_time(tmp_path: Path):
    async with keeping(tmp_path, worker=spec_of("worker", DEAF, drain_s=0.2)) as (actuator, _):
        await actuator.scale("worker", 1)
        await until_written(tmp_path / "worker-0.log")
        (status,) = actuator.processes()
        await actuator.stop()
        assert not psutil.pid_exists(status.pid)


async def test_a_kill_ends_a_stop_that_waits_for_a_drain(tmp_path: Path):
    async with keeping(tmp_path, worker=spec_of("worker", DEAF, drain_s=600.0)) as (actuator, _):
        await actuator.scale("worker", 1)
        await until_written(tmp_path / "worker-0.log")
        stopping = asyncio.create_task(actuator.stop())
        await until(actuator, lambda s: s[0].state == "stopping")
        actuator.kill()
        await asyncio.wait_for(stopping, 20)


async def test_a_stop_during_the_wait_for_a_restart_starts_nothing(tmp_path: Path):
    slow = RestartPolicy(first_delay_s=600.0, max_delay_s=600.0)
    async with keeping(tmp_path, slow, worker=spec_of("worker", FAILS)) as (actuator, exits):
        await actuator.scale("worker", 1)
        await exits.next()
        await asyncio.wait_for(actuator.stop(), 20)


async def test_a_stop_right_after_a_start_leaves_nothing(tmp_path: Path):
    async with keeping(tmp_path, worker=spec_of("worker", WAIT)) as (actuator, exits):
        await actuator.scale("worker", 2)
        await actuator.stop()
        while not exits.seen.empty():
            assert exits.seen.get_nowait().was_asked


async def test_children_get_their_environment_and_no_terminal(tmp_path: Path):
    shows = "import os, sys; print(os.environ['BATON_X'], sys.stdin.read() == '', flush=True)"
    spec = ProcessSpec("worker-0", "worker", (*PYTHON, shows), {"BATON_X": "given"})
    async with keeping(tmp_path, worker=lambda _: spec) as (actuator, exits):
        await actuator.scale("worker", 1)
        assert (await exits.next()).last_line == "given True"


def test_a_sigkill_of_the_parent_ends_its_children(tmp_path: Path):
    child = (
        "import os, sys, time\n"
        "from runtime.lifecycle import die_with_parent\n"
        "die_with_parent(int(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = f"""
import asyncio, os, sys
from pathlib import Path
from control_plane.actuators.local import LocalActuator
from control_plane.actuators.process_spec import ProcessSpec
from runtime.clock import SystemClock
async def main():
    argv = (sys.executable, "-c", {child!r}, str(os.getpid()))
    keep = LocalActuator(
        {{"w": lambda n: ProcessSpec(f"w-{{n}}", "w", argv)}},
        SystemClock(), log_dir=Path({str(tmp_path)!r}),
    )
    await keep.scale("w", 2)
    while not all((Path({str(tmp_path)!r}) / f"w-{{n}}.log").exists()
                  and "ready" in (Path({str(tmp_path)!r}) / f"w-{{n}}.log").read_text()
                  for n in range(2)):
        await asyncio.sleep(0.01)
    print(*(status.pid for status in keep.processes()), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        children = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert len(children) == 2
        process.kill()
        process.wait()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert len(gone) == 2 and not alive


@pytest.mark.parametrize(
    ("deaths", "delay_s"), [(1, 0.2), (2, 0.4), (3, 0.8), (5, 3.2), (6, 5.0), (7, 5.0), (8, None)]
)
def test_the_wait_before_a_restart_doubles_up_to_a_bound(deaths: int, delay_s: float | None):
    assert RestartPolicy().delay_s(deaths) == delay_s


def test_a_healthy_run_starts_the_count_of_deaths_again():
    policy = RestartPolicy(healthy_s=30.0)
    assert policy.quick_deaths(5, uptime_s=29.0) == 6
    assert policy.quick_deaths(5, uptime_s=30.0) == 1
