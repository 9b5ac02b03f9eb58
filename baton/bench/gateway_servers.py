"""The processes of `baton bench gateway`: a gateway over modelled workers, and plain Starlette."""

import asyncio
import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from baton.bench.plain_sse import serve_plain
from baton.bench.relay import FixedControl, worker_info
from baton.bench.relay_workers import Pace, serve
from baton.probe import http_status
from baton.up_config import DEMO_MODEL
from runtime.lifecycle import free_port
from wire import rpc
from wire.messages import Role

MODEL = "tiny"
_READY_S = 60.0


@dataclass(frozen=True, slots=True)
class BenchServer:
    process: psutil.Process
    port: int
    decode_port: int = 0

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def gateway_under_test(pace: Pace) -> AsyncIterator[BenchServer]:
    """A real gateway process over two workers and a control plane that never changes."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    workers = context.Process(target=serve, args=(other, pace))
    workers.start()
    ports: Sequence[int] = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    infos = tuple(
        worker_info(name, role, port)
        for name, role, port in zip("pd", (Role.PREFILL, Role.DECODE), ports, strict=True)
    )
    server = rpc.build_server()
    rpc.add_control_service(server, FixedControl(infos))
    control_port = rpc.bind(server, "127.0.0.1", 0)
    await server.start()
    folder = Path(tempfile.mkdtemp(prefix="baton-bench-"))
    process, port = await _start(long_model(folder), control_port)
    try:
        async with asyncio.timeout(_READY_S):
            while await http_status("127.0.0.1", port, "/readyz") != 200:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # both workers are known
        yield BenchServer(psutil.Process(process.pid), port, ports[1])
    finally:
        process.terminate()
        await process.wait()
        await server.stop(None)
        pipe.send("stop")
        workers.join()
        shutil.rmtree(folder)


def long_model(folder: Path) -> Path:
    """The bundled model's tokenizer with room for long prompts, in a folder of this name."""
    folder.mkdir(exist_ok=True)
    for path in DEMO_MODEL.iterdir():
        if path.suffix == ".json":
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 16_384
    (folder / "config.json").write_text(json.dumps(config))
    return folder


async def _start(model: Path, control_port: int) -> tuple[asyncio.subprocess.Process, int]:
    port = free_port()
    arguments = (
        *("--model", str(model), "--served-model-name", MODEL, "--port", str(port)),
        *("--grpc-port", "-1", "--control-address", f"127.0.0.1:{control_port}"),
        *("--drain-s", "1", "--reject-ratio", "0", "--log-level", "error"),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "baton", "gateway", *arguments
    )
    return process, port


@asynccontextmanager
async def plain_server(tick_s: float) -> AsyncIterator[BenchServer]:
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=serve_plain, args=(other, tick_s))
    process.start()
    port = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    try:
        yield BenchServer(psutil.Process(process.pid), port)
    finally:
        pipe.send("stop")
        process.join()
