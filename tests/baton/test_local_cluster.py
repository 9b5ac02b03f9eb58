"""Starting and stopping a cluster of processes without a model."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from baton.local_cluster import ClusterStartError, LocalCluster, as_flags
from baton.up_config import UpConfig
from control_plane.actuators.process_spec import ProcessExit
from runtime.clock import SystemClock
from runtime.lifecycle import free_port


@contextlib.asynccontextmanager
async def cluster_of(
    program: tuple[str, ...], log_dir: Path, **changes: object
) -> AsyncIterator[tuple[LocalCluster, "asyncio.Queue[ProcessExit]"]]:
    settings = {"port": free_port(), "control_port": 0, "cluster_token": "t", **changes}
    exits: asyncio.Queue[ProcessExit] = asyncio.Queue()
    cluster = LocalCluster(
        UpConfig(model=str(log_dir), **settings),  # type: ignore[arg-type]
        SystemClock(),
        log_dir=log_dir,
        on_exit=exits.put_nowait,
        program=program,
    )
    await cluster.start()
    try:
        yield cluster, exits
    finally:
        pids = [process.pid for process in (await cluster.status()).processes if process.pid]
        await cluster.stop()
        assert not [pid for pid in pids if psutil.pid_exists(pid)]


async def test_a_cluster_is_ready_when_all_workers_are_registered(fake_program, tmp_path: Path):
    async with cluster_of(fake_program, tmp_path, prefill=2, decode=1) as (cluster, _):
        await cluster.wait_ready()
        status = await cluster.status()
        assert [worker.info.worker_id for worker in status.workers] == [
            "decode-0",
            "prefill-0",
            "prefill-1",
        ]
        assert {process.name for process in status.processes} == {
            "gateway",
            "decode-0",
            "prefill-0",
            "prefill-1",
        }
        pids = {process.name: process.pid for process in status.processes}
        assert all(worker.info.pid == pids[worker.info.worker_id] for worker in status.workers)


async def test_a_killed_worker_leaves_at_once_and_comes_back(fake_program, tmp_path: Path):
    async with cluster_of(fake_program, tmp_path) as (cluster, exits):
        await cluster.wait_ready()
        (old,) = [w.info for w in (await cluster.status()).workers if w.info.worker_id[0] == "d"]
        os.kill(old.pid, signal.SIGKILL)
        end = await asyncio.wait_for(exits.get(), 20)
        assert (end.name, end.exit_code, end.will_restart) == ("decode-0", -signal.SIGKILL, True)
        left = [worker.info.worker_id for worker in (await cluster.status()).workers]
        assert left == ["prefill-0"]
        async with asyncio.timeout(60):
            while len((await cluster.status()).workers) < 2:
                await asyncio.sleep(0.02)
        infos = {w.info.worker_id: w.info for w in (await cluster.status()).workers}
        assert infos["decode-0"].epoch > old.epoch


async def test_a_process_that_cannot_start_ends_the_start_with_its_message(
    fake_program, tmp_path: Path
):
    async with cluster_of(fake_program, tmp_path, served_model_name="cut-short") as (cluster, _):
        with pytest.raises(ClusterStartError, match=r"exit code 1.*where its header says 20"):
            await cluster.wait_ready()


async def test_a_cluster_that_does_not_serve_in_time_is_given_up(fake_program, tmp_path: Path):
    changes = {"served_model_name": "never-ready", "ready_timeout_s": 0.3}
    async with cluster_of(fake_program, tmp_path, **changes) as (cluster, _):
        with pytest.raises(ClusterStartError, match="not ready"):
            await cluster.wait_ready()


async def test_the_gateway_ends_before_the_workers(fake_program, tmp_path: Path):
    async with cluster_of(fake_program, tmp_path) as (cluster, _):
        await cluster.wait_ready()
    ended_at = {
        name: (tmp_path / f"{name}.log").stat().st_mtime_ns
        for name in ("gateway", "prefill-0", "decode-0")
    }
    assert min(ended_at, key=lambda name: ended_at[name]) == "gateway"
    for name in ended_at:
        assert "ends" in (tmp_path / f"{name}.log").read_text()


async def test_the_cluster_token_stands_on_no_command_line(fake_program, tmp_path: Path):
    token = "a-token-to-look-for"
    async with cluster_of(fake_program, tmp_path, cluster_token=token) as (cluster, _):
        await cluster.wait_ready()
        for process in (await cluster.status()).processes:
            assert token not in " ".join(psutil.Process(process.pid).cmdline())


def test_flags_are_written_as_the_commands_read_them():
    values = {"kv_memory": "1GiB", "port": 0, "verbose": True, "detach": False, "config": None}
    assert as_flags(values) == ["--kv-memory", "1GiB", "--port", "0", "--verbose"]


async def test_what_up_is_told_for_its_gateways_reaches_each_of_them(fake_program, tmp_path: Path):
    told = {
        "reject_ratio": 0.0,
        "hedge": 1.5,
        "shadow_policies": "round_robin",
        "shadow_share": 0.5,
        "router_redis": "redis://127.0.0.1:6379/3",
        "router_profile": "llama-3.1-8b@h200",
    }
    log = str(tmp_path / "trace.jsonl")
    async with cluster_of(fake_program, tmp_path, gateways=2, trace_log=log, **told) as (
        cluster,
        _,
    ):
        pids: list[int] = []
        async with asyncio.timeout(60):
            while len(pids) < 2:
                await asyncio.sleep(0.01)
                known = (await cluster.status()).processes
                pids = [p.pid for p in known if p.name.startswith("gateway") and p.pid]
        lines = [psutil.Process(pid).cmdline() for pid in pids]
    for number, line in enumerate(lines):
        given = dict(zip(line, line[1:], strict=False))
        assert {name: given[f"--{name.replace('_', '-')}"] for name in told} == {
            name: str(value) for name, value in told.items()
        }
        assert given["--trace-log"] == f"{log}.{number}"
