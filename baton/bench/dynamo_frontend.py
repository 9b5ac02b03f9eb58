"""NVIDIA Dynamo's frontend over its own mockers, under the load that `baton bench gateway` gives.

Its interpreter (BATON_DYNAMO_PYTHON) has ai-dynamo and what its frontend and mocker import. Both
sides' workers compute nothing and are processes of their own; the KV routers of both are on, and
prefill and decode are different workers. Its frontend has its fastest tokenizer.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from baton.bench.gateway_load import RefusedError
from baton.bench.gateway_servers import MODEL, BenchServer, long_model
from baton.bench.row import Row
from runtime.lifecycle import free_port

_READY_S, _STOP_S = 120.0, 10.0
_ENVIRONMENT = {
    "DYN_DISCOVERY_BACKEND": "file",
    "DYN_REQUEST_PLANE": "tcp",
    "DYN_EVENT_PLANE": "zmq",
    "DYN_SYSTEM_PORT": "-1",
    "DYN_LOG": "error",
    "HF_HUB_OFFLINE": "1",
}
Costs = Mapping[str, tuple[float, str]]  # by a row's name: the value and its unit


async def beside_dynamo(
    interpreter: str, gateway: BenchServer, measure: Callable[[BenchServer], Awaitable[Costs]]
) -> list[Row]:
    """A row for each figure; measure: gives them of one server, and is its own warming."""
    async with _frontend(interpreter) as dynamo:
        await _until_it_answers(dynamo, measure)
        ours, theirs = await measure(gateway), await measure(dynamo)
    return [
        Row(
            f"{name}.dynamo",
            value,
            unit,
            "Dynamo frontend",
            theirs[name][0],
            value / theirs[name][0],
        )
        for name, (value, unit) in ours.items()
    ]


async def _until_it_answers(
    server: BenchServer, measure: Callable[[BenchServer], Awaitable[Costs]]
) -> None:
    async with asyncio.timeout(_READY_S):
        while True:
            try:
                await measure(server)
                return
            except* (RefusedError, OSError):
                await asyncio.sleep(0.5)


@asynccontextmanager
async def _frontend(interpreter: str) -> AsyncIterator[BenchServer]:
    folder = Path(tempfile.mkdtemp(prefix="baton-bench-dynamo-"))
    port = free_port()
    model = long_model(folder / MODEL)
    flags = f"--router-mode kv --tokenizer fastokens --http-host 127.0.0.1 --http-port {port}"
    told = f"--model-name {MODEL} --speedup-ratio 1000000 --num-gpu-blocks-override 100000"
    commands = [
        ["dynamo.frontend", *flags.split()],
        *(
            [
                "dynamo.mocker",
                "--model-path",
                str(model),
                "--disaggregation-mode",
                mode,
                *told.split(),
            ]
            for mode in ("prefill", "decode")
        ),
    ]
    environment = {**_ENVIRONMENT, "HOME": str(folder), "DYN_FILE_KV": str(folder / "discovery")}
    processes: list[asyncio.subprocess.Process] = []
    try:
        for command in commands:
            processes.append(
                await asyncio.create_subprocess_exec(
                    interpreter, "-m", *command, "--discovery-backend", "file",
                    env=environment, cwd=folder,
                    stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                )
            )  # fmt: skip
        yield BenchServer(psutil.Process(processes[0].pid), port)
    finally:
        for process in processes:
            await _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
