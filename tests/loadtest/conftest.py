"""A server of OpenAI's API that does what a script says, and makers of records."""

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from loadtest.body import BodyMaker, BodyOptions, PromptStyle
from loadtest.generator import Generator
from loadtest.plan import Conversation, Segment, Turn
from loadtest.record import RequestRecord, StageTimes
from loadtest.target import Target, parse_target
from runtime.clock import SystemClock

CLOCK = SystemClock()


@dataclass(frozen=True)
class Write:
    """Bytes that the server sends, delay_s after what went before. hold: first wait for it."""

    data: bytes
    delay_s: float = 0.0
    hold: asyncio.Event | None = None


@dataclass(frozen=True)
class Reply:
    """A whole response. ends: how the connection goes on: keep, close, or reset."""

    writes: Sequence[Write]
    ends: str = "keep"


@dataclass
class Seen:
    """A request as the server got it, and when it wrote each part of its answer."""

    path: str
    body: Any
    arrived: float
    wrote: list[float] = field(default_factory=list)
    connection: int = 0


Script = Callable[[int, Any], Reply]


@dataclass
class ScriptedServer:
    """Gives script(request number, body) on every POST; GETs have fixed pages."""

    script: Script
    pages: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    port: int = 0
    listener: Any = None
    num_connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def target(self) -> Target:
        return parse_target(self.url)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        number = self.num_connections
        try:
            while await self._serve_one(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        length = next(
            int(line.split(":")[1])
            for line in head.split("\r\n")
            if line.lower().startswith("content-length:")
        )
        raw = await reader.readexactly(length)
        if method == "GET":
            status, page = self.pages.get(path, (404, b"{}"))
            writer.write(whole(status, page))
            return True
        seen = Seen(path, json.loads(raw), CLOCK.now(), connection=number)
        self.seen.append(seen)
        reply = self.script(len(self.seen) - 1, seen.body)
        for write in reply.writes:
            if write.hold is not None:
                await write.hold.wait()
            if write.delay_s:
                await asyncio.sleep(write.delay_s)
            seen.wrote.append(CLOCK.now())
            writer.write(write.data)
        if reply.ends == "reset":
            writer.transport.abort()
        return reply.ends == "keep"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def text_event(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish_reason}
    return event({"choices": [choice], "usage": None})


def usage_event(num_input: int, num_output: int, num_cached: int = 0, **more: object) -> bytes:
    details = {"cached_tokens": num_cached}
    usage = {"prompt_tokens": num_input, "completion_tokens": num_output}
    return event({"choices": [], "usage": {**usage, "prompt_tokens_details": details}, **more})


HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"x-baton-prefill-worker: prefill-0\r\nx-baton-decode-worker: decode-0\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def whole(status: int, body: bytes, headers: bytes = b"") -> bytes:
    length = b"content-length: %d\r\n" % len(body)
    kind = b"content-type: application/json\r\n"
    return b"HTTP/1.1 %d X\r\n" % status + kind + length + headers + b"\r\n" + body


def answer(
    delays_s: Sequence[float], *, texts: Sequence[str] = (), num_input: int = 8, num_cached: int = 0
) -> Reply:
    """One word after each delay, then usage and [DONE]."""
    words = list(texts) or [f" w{place}" for place in range(len(delays_s))]
    writes = [Write(HEAD)]
    for place, (delay_s, word) in enumerate(zip(delays_s, words, strict=True)):
        reason = "length" if place == len(words) - 1 else None
        writes.append(Write(chunk(text_event(word, reason)), delay_s))
    writes.append(Write(chunk(usage_event(num_input, len(words), num_cached)) + END))
    return Reply(writes)


@asynccontextmanager
async def serving(script: Script, **fields: Any) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(script, **fields)
    models = json.dumps({"data": [{"id": "demo", "max_model_len": 4096}]}).encode()
    server.pages.setdefault("/v1/models", (200, models))
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, backlog=1024)
    server.listener = listener
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


async def load(
    server: ScriptedServer | Target,
    conversations: Sequence[Conversation],
    style: PromptStyle = PromptStyle.IDS,
    timeout_s: float = 20.0,
) -> list[RequestRecord]:
    """Runs a generator in this process until its end: records by index."""
    records: list[RequestRecord] = []
    target = server if isinstance(server, Target) else server.target
    options = BodyOptions(model="demo", style=style, words=("red", "green", "blue"))
    generator = Generator(
        conversations, BodyMaker(options), target, CLOCK, records.append, timeout_s=timeout_s
    )
    generator.prepare()
    await generator.run(CLOCK.now() + 0.02)
    return sorted(records, key=lambda record: record.index)


def singles(
    starts_s: Sequence[float], num_input: int = 8, num_output: int = 4
) -> list[Conversation]:
    """One-request conversations."""
    return [
        Conversation(index, at_s, (Turn(num_output, (Segment(index, num_input),)),))
        for index, at_s in enumerate(starts_s)
    ]


def record(index: int = 0, at_s: float = 0.0, **changes: Any) -> RequestRecord:
    """A success: sent at once, first text after 0.1 s, two more 0.02 s apart, ended with them."""
    gaps_s = changes.pop("gaps_s", (0.02, 0.02))
    ttft_s = changes.pop("ttft_s", 0.1)
    first_s = None if ttft_s is None else at_s + ttft_s
    fields: dict[str, Any] = {
        "index": index,
        "class_name": "",
        "conversation": index,
        "turn": 0,
        "intended_s": at_s,
        "sent_s": at_s,
        "end_s": (at_s if first_s is None else first_s) + sum(gaps_s),
        "first_s": first_s,
        "gaps": array("f", gaps_s).tobytes(),
        "num_planned_input": 10,
        "num_planned_output": 3,
        "num_input": 10,
        "num_output": len(gaps_s) + 1,
        "num_cached": 0,
        "status": 200,
        "finish_reason": "length",
        "error": "",
        "stages": StageTimes(),
    }
    return RequestRecord(**{**fields, **changes})


class Tools:
    """The helpers above, for tests, which cannot import this file."""

    answer = staticmethod(answer)
    chunk = staticmethod(chunk)
    event = staticmethod(event)
    load = staticmethod(load)
    record = staticmethod(record)
    serving = staticmethod(serving)
    singles = staticmethod(singles)
    text_event = staticmethod(text_event)
    usage_event = staticmethod(usage_event)
    whole = staticmethod(whole)
    Reply = Reply
    Write = Write
    HEAD = HEAD
    END = END
    clock = CLOCK


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """These tests run on the loop that the generators run on."""
    return {"uvloop": uvloop.new_event_loop}
