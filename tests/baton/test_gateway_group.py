"""`baton gateway --processes`: one port, one command, every process kept alive."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from baton.up_config import DEMO_MODEL
from runtime.lifecycle import free_port


async def test_several_processes_serve_one_port_are_restarted_and_end_together(
    tmp_path: Path,
) -> None:
    port = free_port()
    argv = ("gateway", "--model", str(DEMO_MODEL), "--port", str(port), "--grpc-port", "-1")
    rest = ("--processes", "2", "--control-address", "127.0.0.1:1", "--usage-log")
    log = tmp_path / "usage.jsonl"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "baton", *argv, *rest, str(log),
        "--parent-pid", str(os.getpid()), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await until(lambda: processes_seen(port) == {"0", "1"})
        assert {path.name for path in tmp_path.iterdir()} == {"usage.jsonl.0", "usage.jsonl.1"}
        first, *_ = children = psutil.Process(process.pid).children()
        first.kill()
        await until(lambda: set(psutil.Process(process.pid).children()).isdisjoint({first}))
        await until(lambda: processes_seen(port) == {"0", "1"})
        children += psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert not any(child.is_running() for child in children)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def processes_seen(port: int) -> set[str]:
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
    except httpx.TransportError:
        return set()
    return set(re.findall(r'process="(\d+)"', text))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)
