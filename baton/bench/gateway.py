"""What one gateway process costs, over workers that compute nothing, beside plain Starlette."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from urllib.request import urlopen

import psutil
import uvloop

from baton.bench.dynamo_frontend import Costs, beside_dynamo
from baton.bench.gateway_load import (
    OpenStreams,
    Reading,
    RefusedError,
    closed_loop,
    http_request,
    open_connection,
)
from baton.bench.gateway_servers import MODEL, BenchServer, gateway_under_test, plain_server
from baton.bench.gateway_stall import watched_stalls
from baton.bench.gateway_text import BenchText
from baton.bench.relay import bare_session
from baton.bench.relay_workers import Pace
from baton.bench.row import Row, failed_row
from runtime.http_server import allow_connections
from runtime.settings import environment

Turns = list[dict[str, str]]

_CONCURRENCY = 64
_PACED = Pace(tick_s=_CONCURRENCY / 20_000)
_WAITING = Pace(tick_s=0.005, every=1000)
_NUM_OPEN = 10_000
_LIMIT_S, _LIMIT_S_A_REPEAT = 240.0, 30.0
_PATH = "/v1/completions"
_DONE = b"data: [DONE]\n\n\r\n0\r\n\r\n"  # with the last chunk of the body


def run(repeats: int) -> Iterator[Row]:
    """gateway.request, .token, .token_paced and .long are CPU times of the gateway's process.

    A row that a server refuses, or that takes too long, says why and the next one is measured.
    """
    allow_connections()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = _measure(repeats)
        try:
            while (row := runner.run(_next(rows))) is not None:
                yield row
        finally:
            runner.run(rows.aclose())


async def _next(rows: AsyncGenerator[Row, None]) -> Row | None:
    return await anext(rows, None)


async def _measure(repeats: int) -> AsyncGenerator[Row, None]:
    text = BenchText()
    async with gateway_under_test(Pace()) as gateway, plain_server(0.0) as plain:
        await _requests(gateway, text, 200, 8)  # warm
        for name, rows in (
            (
                "gateway.request",
                partial(_per_request, gateway, plain, text, repeats, is_stream=True),
            ),
            (
                "gateway.request.whole",
                partial(_per_request, gateway, plain, text, repeats, is_stream=False),
            ),
            ("gateway.token", partial(_per_token, "gateway.token", gateway, plain, text, repeats)),
            ("gateway.ttft.added", partial(_first_token, gateway, text, 200 * repeats)),
            ("gateway.long", partial(_long, gateway, text, 40 * repeats)),
        ):
            for row in await _limited(name, rows, repeats):
                yield row
        if interpreter := environment("DYNAMO_PYTHON"):
            costs = partial(_costs, text, _turns(text), repeats)
            rows = partial(beside_dynamo, interpreter, gateway, costs)
            for row in await _limited("gateway.dynamo", rows, repeats):
                yield row
    async with gateway_under_test(_PACED) as gateway, plain_server(_PACED.tick_s) as plain:
        name = "gateway.token_paced"
        rows = partial(_per_token, name, gateway, plain, text, repeats)
        for row in await _limited(name, rows, repeats):
            yield row
    async with gateway_under_test(_WAITING) as gateway:
        rows = partial(_open_streams, gateway, text)
        for row in await _limited("gateway.streams", rows, repeats):
            yield row


async def _limited(name: str, rows: Callable[[], Awaitable[list[Row]]], repeats: int) -> list[Row]:
    """The rows, or one that says why there are none."""
    limit_s = _LIMIT_S + _LIMIT_S_A_REPEAT * repeats
    try:
        async with asyncio.timeout(limit_s):
            return await rows()
    except TimeoutError:
        why = f"not done after {limit_s:g} s"
    except ExceptionGroup as group:
        why = repr(group.exceptions[0])
    except (RefusedError, OSError) as error:
        why = repr(error)
    return [failed_row(name, why)]


def _body(prompt: str, num_output: int, *, is_stream: bool) -> dict[str, object]:
    return {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": num_output,
        "stream": is_stream,
        "temperature": 0.0,
        "ignore_eos": True,
    }


async def _requests(
    server: BenchServer, text: BenchText, count: int, num_output: int, *, is_stream: bool = True
) -> list[Reading]:
    bodies = [_body(text.of(128), num_output, is_stream=is_stream) for _ in range(count)]
    requests = [http_request(_PATH, body) for body in bodies]
    return await closed_loop(server.port, requests, _CONCURRENCY, _DONE if is_stream else b"}")


async def _per_request(
    gateway: BenchServer, plain: BenchServer, text: BenchText, repeats: int, *, is_stream: bool
) -> list[Row]:
    count = 400 * repeats
    costs = []
    for server in (gateway, plain):
        begun_s = server.cpu_s()
        await _requests(server, text, count, 8, is_stream=is_stream)
        costs.append(1e3 * (server.cpu_s() - begun_s) / count)
    name = "gateway.request" if is_stream else "gateway.request.whole"
    return [Row(name, costs[0], "ms CPU", "plain Starlette", costs[1], costs[0] / costs[1])]


async def _per_token(
    name: str, gateway: BenchServer, plain: BenchServer, text: BenchText, repeats: int
) -> list[Row]:
    count = _CONCURRENCY * repeats
    costs = []
    for server in (gateway, plain):
        begun_s = server.cpu_s()
        await _requests(server, text, count, 256)
        costs.append(1e6 * (server.cpu_s() - begun_s) / (256 * count))
    return [Row(name, costs[0], "us CPU", "plain Starlette", costs[1], costs[0] / costs[1])]


async def _costs(text: BenchText, turns: Turns, repeats: int, server: BenchServer) -> Costs:
    """What a peer's frontend is compared by, all of it streamed.

    turns: of all conversations, so that a server that was measured before has seen them.
    """
    found: dict[str, tuple[float, str]] = {}
    for name, unit, num_output, count, scale in (
        ("gateway.request", "ms CPU", 8, 400 * repeats, 1e3),
        ("gateway.token", "us CPU", 256, _CONCURRENCY * repeats, 1e6 / 256),
    ):
        begun_s = server.cpu_s()
        await _requests(server, text, count, num_output)
        found[name] = scale * (server.cpu_s() - begun_s) / count, unit
    bodies = _conversations(text, turns, 40 * repeats, is_stream=True)
    begun_s = server.cpu_s()
    await closed_loop(server.port, bodies, 16, _DONE)
    found["gateway.long"] = 1e3 * (server.cpu_s() - begun_s) / len(bodies), "ms CPU"
    return found


async def _first_token(gateway: BenchServer, text: BenchText, count: int) -> list[Row]:
    """One at a time, over a pair of workers, in turns with a bare session to the decode worker.

    What a quantile adds is the difference of both quantiles: what the host does to either way,
    such as running something else first, is in both.
    """
    requests = [http_request(_PATH, _body(text.of(128), 2, is_stream=True)) for _ in range(count)]
    num_remote = await _num_remote(gateway.port)
    with_s: list[float] = []
    bare_s: list[float] = []
    connection = await open_connection(gateway.port)
    try:
        async with bare_session(gateway.decode_port) as bare_first_s:
            for request in requests:
                await connection.ask(request, _DONE)
                with_s.append(connection.reading.first_s)
                bare_s.append(await bare_first_s(128))
    finally:
        connection.close()
    num_remote = await _num_remote(gateway.port) - num_remote
    if num_remote != count:
        raise RefusedError(f"{num_remote:g} of {count} requests ran on a pair of workers")
    return [
        _added(name, min(count - 1, int(share * count)), sorted(with_s), sorted(bare_s))
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def _added(name: str, at: int, with_s: Sequence[float], bare_s: Sequence[float]) -> Row:
    """at: of the quantile among the sorted times."""
    added_ms, bare_ms = 1e3 * (with_s[at] - bare_s[at]), 1e3 * bare_s[at]
    ratio = with_s[at] / bare_s[at]
    return Row(f"gateway.ttft.added.{name}", added_ms, "ms", f"bare session {name}", bare_ms, ratio)


async def _num_remote(port: int) -> float:
    """Placements on two workers so far."""
    loop = asyncio.get_running_loop()
    page = await loop.run_in_executor(None, urlopen, f"http://127.0.0.1:{port}/metrics")
    found = re.search(rb'baton_placements_total{kind="remote"} (\S+)', page.read())
    return float(found[1]) if found else 0.0


async def _long(gateway: BenchServer, text: BenchText, count: int) -> list[Row]:
    """Conversations of 4,096 tokens: nine tenths are turns that came before, the last is new.
    The baseline is Hugging Face's tokenizer for the whole text, in this process."""
    requests = _conversations(text, _turns(text), count, is_stream=False)
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
    return [Row("gateway.long", cost_ms, "ms CPU", "tokenizers alone", base_ms, cost_ms / base_ms)]


def _turns(text: BenchText) -> Turns:
    return [{"role": ("user", "assistant")[n % 2], "content": text.of(455)} for n in range(8)]


def _conversations(text: BenchText, turns: Turns, count: int, *, is_stream: bool) -> list[bytes]:
    """Each is the same turns and one that is new."""
    bodies: list[dict[str, object]] = [
        {
            "model": MODEL,
            "messages": [*turns, {"role": "user", "content": text.of(400)}],
            "max_tokens": 1,
            "stream": is_stream,
        }
        for _ in range(count)
    ]
    return [http_request("/v1/chat/completions", body) for body in bodies]


async def _open_streams(gateway: BenchServer, text: BenchText) -> list[Row]:
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
