"""What one gateway process costs, over workers that compute nothing, beside plain Starlette."""

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
from random import Random

import psutil
import uvloop
from tokenizers import Tokenizer

from baton.bench.gateway_load import OpenStreams, Reading, closed_loop, http_request
from baton.bench.gateway_stall import watched_stalls
from baton.bench.plain_sse import serve_plain
from baton.bench.relay import FixedControl, bare_first_s, worker_info
from baton.bench.relay_workers import Pace, serve
from baton.bench.row import Row
from baton.probe import http_status
from baton.up_config import DEMO_MODEL
from gateway.listening import allow_connections
from runtime.lifecycle import free_port
from wire import rpc
from wire.messages import Role

_MODEL = "tiny"
_CONCURRENCY = 64
_PACED = Pace(tick_s=_CONCURRENCY / 20_000)
_WAITING = Pace(tick_s=0.005, every=1000)
_NUM_OPEN = 10_000
_PATH = "/v1/completions"
_DONE = b"data: [DONE]\n\n"


def run(repeats: int) -> list[Row]:
    """gateway.request, .token, .token_paced and .long are CPU times of the gateway's process."""
    allow_connections()
    return uvloop.run(_measure(repeats))


async def _measure(repeats: int) -> list[Row]:
    rows: list[Row] = []
    text = _Text()
    async with _gateway(Pace()) as gateway, _plain(0.0) as plain:
        await _requests(gateway, text, 200, 8)  # warm
        rows.append(await _per_request(gateway, plain, text, repeats, is_stream=True))
        rows.append(await _per_request(gateway, plain, text, repeats, is_stream=False))
        rows.append(await _per_token("gateway.token", gateway, plain, text, repeats))
        rows += await _first_token(gateway, text, 200 * repeats)
        rows.append(await _long(gateway, text, 40 * repeats))
    async with _gateway(_PACED) as gateway, _plain(_PACED.tick_s) as plain:
        rows.append(await _per_token("gateway.token_paced", gateway, plain, text, repeats))
    async with _gateway(_WAITING) as gateway:
        rows += await _open_streams(gateway, text)
    return rows


@dataclass(frozen=True, slots=True)
class _Server:
    process: psutil.Process
    port: int
    decode_port: int = 0

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


class _Text:
    """Prompts of so many tokens of the bundled tokenizer."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
        words = [f" {word}" for word in _words(self.tokenizer)]
        self._words = [word for word in words if len(self._ids(word)) == 1]
        self._rng = Random(1)

    def of(self, num_tokens: int) -> str:
        return "".join(self._rng.choices(self._words, k=num_tokens))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _words(tokenizer: Tokenizer) -> list[str]:
    return [
        token[1:]
        for token in tokenizer.get_vocab()
        if token[:1] == "\u0120" and token[1:].isalpha()
    ]


def _body(prompt: str, num_output: int, *, is_stream: bool) -> dict[str, object]:
    return {
        "model": _MODEL,
        "prompt": prompt,
        "max_tokens": num_output,
        "stream": is_stream,
        "temperature": 0.0,
    }


async def _requests(
    server: _Server, text: _Text, count: int, num_output: int, *, is_stream: bool = True
) -> list[Reading]:
    bodies = [_body(text.of(128), num_output, is_stream=is_stream) for _ in range(count)]
    requests = [http_request(_PATH, body) for body in bodies]
    return await closed_loop(server.port, requests, _CONCURRENCY, _DONE if is_stream else b"}")


async def _per_request(
    gateway: _Server, plain: _Server, text: _Text, repeats: int, *, is_stream: bool
) -> Row:
    count = 400 * repeats
    costs = []
    for server in (gateway, plain):
        begun_s = server.cpu_s()
        await _requests(server, text, count, 8, is_stream=is_stream)
        costs.append(1e3 * (server.cpu_s() - begun_s) / count)
    name = "gateway.request" if is_stream else "gateway.request.whole"
    return Row(name, costs[0], "ms CPU", "plain Starlette", costs[1], costs[0] / costs[1])


async def _per_token(name: str, gateway: _Server, plain: _Server, text: _Text, repeats: int) -> Row:
    count = _CONCURRENCY * repeats
    costs = []
    for server in (gateway, plain):
        begun_s = server.cpu_s()
        await _requests(server, text, count, 256)
        costs.append(1e6 * (server.cpu_s() - begun_s) / (256 * count))
    return Row(name, costs[0], "us CPU", "plain Starlette", costs[1], costs[0] / costs[1])


async def _first_token(gateway: _Server, text: _Text, count: int) -> list[Row]:
    """One at a time, over a pair; against a bare session with the decode worker."""
    bodies = [http_request(_PATH, _body(text.of(128), 2, is_stream=True)) for _ in range(count)]
    readings = await closed_loop(gateway.port, bodies, 1, _DONE)
    bare_s = sorted(await bare_first_s(gateway.decode_port, count, 128))
    first_s = sorted(reading.first_s for reading in readings)
    rows = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        at = min(count - 1, int(share * count))
        added_ms = 1e3 * (first_s[at] - bare_s[at])
        ratio = first_s[at] / bare_s[at]
        rows.append(
            Row(
                f"gateway.ttft.added.{name}",
                added_ms,
                "ms",
                "bare session",
                1e3 * bare_s[at],
                ratio,
            )
        )
    return rows


async def _long(gateway: _Server, text: _Text, count: int) -> Row:
    """Conversations of 4,096 tokens: nine tenths are turns that came before, the last is new.
    The baseline is Hugging Face's tokenizer for the whole text, in this process."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": text.of(455)} for n in range(8)]
    bodies: list[dict[str, object]] = [
        {
            "model": _MODEL,
            "messages": [*turns, {"role": "user", "content": text.of(400)}],
            "max_tokens": 1,
        }
        for _ in range(count)
    ]
    path = "/v1/chat/completions"
    requests = [http_request(path, body) for body in bodies]
    await closed_loop(gateway.port, requests[:5], 1, b"}")
    begun_s = gateway.cpu_s()
    await closed_loop(gateway.port, requests, 16, b"}")
    cost_ms = 1e3 * (gateway.cpu_s() - begun_s) / count
    own = psutil.Process()
    whole = text.of(4096)
    begun = own.cpu_times()
    for _ in range(count):
        text.tokenizer.encode_batch_fast([whole], add_special_tokens=False)
    ended = own.cpu_times()
    base_ms = 1e3 * (ended.user + ended.system - begun.user - begun.system) / count
    return Row("gateway.long", cost_ms, "ms CPU", "tokenizers alone", base_ms, cost_ms / base_ms)


async def _open_streams(gateway: _Server, text: _Text) -> list[Row]:
    """Each stream gets a token every five seconds; the stall is the longest wait of /livez."""
    request = http_request(_PATH, _body(text.of(16), 3000, is_stream=True))
    before = gateway.process.memory_info().rss
    streams = OpenStreams(gateway.port, request)
    try:
        await streams.open(_NUM_OPEN)
        with watched_stalls(gateway.port) as stalls:
            await asyncio.sleep(10)
        used = gateway.process.memory_info().rss - before
        failed = float(streams.num_failed)
    finally:
        streams.close()
    per_stream = used / _NUM_OPEN / 1000
    return [
        Row("gateway.stream_memory", per_stream, "KB", "the bound", 60.0, per_stream / 60.0),
        Row(
            "gateway.streams.stall",
            stalls.longest_ms,
            "ms",
            "the bound",
            250.0,
            stalls.longest_ms / 250.0,
        ),
        Row(
            "gateway.streams.failed",
            failed,
            "streams",
            "opened",
            float(_NUM_OPEN),
            failed / _NUM_OPEN,
        ),
    ]


@asynccontextmanager
async def _gateway(pace: Pace) -> AsyncIterator[_Server]:
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
    process, port = await _start(_long_model(folder), control_port)
    try:
        while await http_status("127.0.0.1", port, "/readyz") != 200:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # both workers are known
        yield _Server(psutil.Process(process.pid), port, ports[1])
    finally:
        process.terminate()
        await process.wait()
        await server.stop(None)
        pipe.send("stop")
        workers.join()
        shutil.rmtree(folder)


def _long_model(folder: Path) -> Path:
    """The bundled model's tokenizer with room for long prompts."""
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
        *("--model", str(model), "--served-model-name", _MODEL, "--port", str(port)),
        *("--grpc-port", "-1", "--control-address", f"127.0.0.1:{control_port}"),
        *("--drain-s", "1", "--reject-ratio", "0", "--log-level", "error"),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "baton", "gateway", *arguments
    )
    return process, port


@asynccontextmanager
async def _plain(tick_s: float) -> AsyncIterator[_Server]:
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=serve_plain, args=(other, tick_s))
    process.start()
    port = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    try:
        yield _Server(psutil.Process(process.pid), port)
    finally:
        pipe.send("stop")
        process.join()
