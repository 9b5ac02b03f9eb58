"""The local actuator adds and removes workers at run time."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from control_plane.actuators.actuator import ActuatorRefused
from control_plane.actuators.local import LocalActuator
from control_plane.actuators.process_spec import ProcessSpec, RestartPolicy
from runtime.clock import SystemClock
from wire.cluster import ProcessStatus
from wire.messages import Role

WAIT = (sys.executable, "-S", "-E", "-c", "import signal; signal.pause()")
FAILS = (sys.executable, "-S", "-E", "-c", "raise SystemExit('no memory for the weights')")
FAST = RestartPolicy(first_delay_s=0.01, max_delay_s=0.02, max_quick_deaths=2)


def template(role: Role, argv: tuple[str, ...] = WAIT) -> Callable[[int], ProcessSpec]:
    return lambda number: ProcessSpec(f"{role.value}-{number}", role.value, argv)


class Host:
    """An actuator, and who serves as far as the registry knows."""

    def __init__(self, log_dir: Path, argv: tuple[str, ...] = WAIT, **settings: object) -> None:
        self.serving: dict[str, Role] = {}
        self.actuator = LocalActuator(
            {role.value: template(role, argv) for role in Role},
            SystemClock(),
            log_dir=log_dir,
            policy=FAST,
            serving=lambda: self.serving,
            **settings,  # type: ignore[arg-type]
        )

    def names(self) -> list[str]:
        return [status.name for status in self.actuator.processes()]

    async def until(
        self, wanted: Callable[[tuple[ProcessStatus, ...]], bool]
    ) -> tuple[ProcessStatus, ...]:
        async with asyncio.timeout(60):
            while not wanted(self.actuator.processes()):
                await asyncio.sleep(0.005)
        return self.actuator.processes()

    async def until_running(self) -> tuple[ProcessStatus, ...]:
        return await self.until(lambda seen: all(status.state == "running" for status in seen))


@contextlib.asynccontextmanager
async def host_of(log_dir: Path, **settings: object) -> AsyncIterator[Host]:
    host = Host(log_dir, **settings)  # type: ignore[arg-type]
    try:
        yield host
    finally:
        await host.actuator.close()
        host.actuator.check_integrity()
        assert host.actuator.processes() == ()


async def test_workers_are_added_under_free_numbers_and_removed_by_name(tmp_path: Path):
    async with host_of(tmp_path) as host:
        await host.actuator.add(Role.DECODE, 3, "")
        await host.actuator.add(Role.PREFILL, 1, "")
        before = {status.name: status.pid for status in await host.until_running()}
        assert list(before) == ["decode-0", "decode-1", "decode-2", "prefill-0"]
        await host.actuator.remove("decode-1")
        await host.until(lambda seen: len(seen) == 3)
        assert not psutil.pid_exists(before["decode-1"])
        await host.actuator.add(Role.DECODE, 1, "")
        assert "decode-1" in host.names()
        after = {status.name: status.pid for status in await host.until_running()}
        assert after["decode-0"] == before["decode-0"] and after["decode-1"] != before["decode-1"]


async def test_a_removed_worker_is_not_started_again(tmp_path: Path):
    async with host_of(tmp_path) as host:
        await host.actuator.add(Role.DECODE, 1, "")
        (status,) = await host.until_running()
        await host.actuator.remove("decode-0")
        await host.actuator.remove("decode-0")
        os.kill(status.pid, signal.SIGKILL)
        await host.until(lambda seen: not seen)


async def test_over_the_quota_nothing_is_started(tmp_path: Path):
    async with host_of(tmp_path, max_workers=2) as host:
        await host.actuator.add(Role.DECODE, 1, "")
        with pytest.raises(ActuatorRefused, match="quota of this host is 2 workers and 1 are kept"):
            await host.actuator.add(Role.PREFILL, 2, "")
        assert host.names() == ["decode-0"]


async def test_removing_an_unknown_worker_names_those_that_are_kept(tmp_path: Path):
    async with host_of(tmp_path) as host:
        await host.actuator.add(Role.DECODE, 1, "")
        with pytest.raises(ActuatorRefused, match=r"no process 'decode-7'.*there are: decode-0"):
            await host.actuator.remove("decode-7")


async def test_the_status_counts_a_flipped_worker_in_its_new_pool(tmp_path: Path):
    async with host_of(tmp_path) as host:
        await host.actuator.add(Role.DECODE, 2, "")
        await host.until_running()
        host.serving = {"decode-0": Role.PREFILL}
        prefill, decode = await host.actuator.status()
        assert (prefill.wanted, prefill.running, prefill.starting) == (1, 1, 0)
        assert (decode.wanted, decode.running, decode.starting) == (1, 0, 1)


async def test_half_of_a_scale_up_that_never_becomes_ready_is_replaced_then_given_up(
    tmp_path: Path,
):
    async with host_of(tmp_path, ready_timeout_s=0.2) as host:
        await host.actuator.add(Role.DECODE, 2, "")
        first = {status.name: status.pid for status in await host.until_running()}
        host.serving = {"decode-0": Role.DECODE}
        replaced: list[str] = []

        def given_up(seen: tuple[ProcessStatus, ...]) -> bool:
            replaced.extend(host.actuator.replace_unready())
            return seen[1].state == "failed"

        seen = await host.until(given_up)
        assert set(replaced) == {"decode-1"} and len(replaced) >= 2
        assert (seen[0].pid, seen[0].state) == (first["decode-0"], "running")
        _, decode = await host.actuator.status()
        assert (decode.running, decode.failed) == (1, 1)
        assert decode.detail == "decode-1: decode-1 was not ready in 0 s"


async def test_a_worker_that_was_given_up_makes_room_for_a_new_one(tmp_path: Path):
    async with host_of(tmp_path, argv=FAILS, max_workers=2) as host:
        await host.actuator.add(Role.DECODE, 1, "")
        await host.until(lambda seen: seen[0].state == "failed")
        (_, decode) = await host.actuator.status()
        assert decode.detail == "decode-0: no memory for the weights"
        await host.actuator.add(Role.DECODE, 1, "")
        assert host.names() == ["decode-0"]
