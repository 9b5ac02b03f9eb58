"""The real HTTP server over a scripted router, and tiny tokenizers trained here."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import uvloop
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from gateway.app import DISTRIBUTION, build_app
from gateway.endpoint import Services
from gateway.gate import Gate
from gateway.grpc_server import GrpcAddress, GrpcServer, serving
from gateway.limits import Limits
from gateway.meter import GatewayMeter
from gateway.model_directory import ModelFiles, read_model_directory
from gateway.prepare import Preparer
from gateway.process import serve_app
from gateway.tokenizer import PromptEncoder
from gateway.usage import UsageLog
from router.candidates import RouterSnapshot
from router.output import OutputDelta, RequestTrace
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.cluster import ServingMode
from wire.messages import FinishReason, GenerateRequest

sys.path.append(str(Path(__file__).parent))  # for answer_readers

CORPUS = [
    "Baton hands the cache from the prefill pool to the decode pool like a baton in a relay.",
    "A router picks a pair of workers for each request, and tokens stream to the client.",
    "Grüße aus Köln, naïve café, 東京 と 北京, Привет мир, שלום, 🚀🎉👩‍👩‍👧 emoji, 1 + 2 = 3.",
    '{"name": "baton", "tokens": [1, 2, 3], "ok": true}\n\n\tdef main():\n    return None',
]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MAX_MODEL_LEN = 256
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 << 10))


def train_byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_tokens([AddedToken("<think it>", special=False)])
    return tokenizer


def write_model_directory(path: Path, tokenizer: Tokenizer, **tokenizer_config: object) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {
        "max_position_embeddings": MAX_MODEL_LEN,
        "vocab_size": tokenizer.get_vocab_size(),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 20}))
    fields = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE, **tokenizer_config}
    (path / "tokenizer_config.json").write_text(json.dumps(fields))
    return path


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> Tokenizer:
    return train_byte_level()


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory, byte_level_tokenizer: Tokenizer) -> Path:
    return write_model_directory(tmp_path_factory.mktemp("models") / "tiny", byte_level_tokenizer)


@pytest.fixture(scope="session")
def model(model_path: Path) -> ModelFiles:
    return read_model_directory(model_path)


@pytest.fixture(scope="session")
def model_of(
    tmp_path_factory: pytest.TempPathFactory, byte_level_tokenizer: Tokenizer
) -> Callable[[str], ModelFiles]:
    """model_of(template) is a model called tiny with that chat template."""

    def make(template: str) -> ModelFiles:
        path = tmp_path_factory.mktemp("models") / "tiny"
        return read_model_directory(
            write_model_directory(path, byte_level_tokenizer, chat_template=template)
        )

    return make


Step = OutputDelta | Exception | asyncio.Event
Script = Callable[[GenerateRequest], Sequence[Step]]


@dataclass
class FakeRouter:
    """Plays one script per request: gives deltas, raises errors, waits for events."""

    script: Script
    is_ready: bool = True
    max_model_len: int = 0
    requests: list[GenerateRequest] = field(default_factory=list)
    traces: dict[str, RequestTrace] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    closed_early: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[OutputDelta]:
        self.requests.append(request)
        self.running.add(request.request_id)
        self.changed.set()
        is_complete = False
        try:
            for step in self.script(request):
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    is_complete = step.finish_reason is not None
                    if step.trace is not None:
                        self.traces[request.request_id] = step.trace
                    yield step
        finally:
            self.running.discard(request.request_id)
            if not is_complete:
                self.closed_early.add(request.request_id)
            self.changed.set()

    def trace(self, request_id: str) -> RequestTrace | None:
        return self.traces.get(request_id)

    def recent_traces(self, count: int, slowest: bool = False) -> list[tuple[str, RequestTrace]]:
        found = list(self.traces.items())
        found.sort(key=lambda item: -item[1].ttft_s) if slowest else found.reverse()
        return found[:count]

    def snapshot(self) -> RouterSnapshot:
        return _Snapshot(self.is_ready, self.max_model_len)  # type: ignore[return-value]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@dataclass(frozen=True)
class _Snapshot:
    is_ready: bool
    max_model_len: int
    workers: tuple[()] = ()
    serving: ServingMode = ServingMode()


@dataclass
class RunningGateway:
    """A gateway that serves on a real socket."""

    url: str
    port: int
    router: FakeRouter
    client: httpx.AsyncClient
    services: Services
    metrics: Metrics
    stop: asyncio.Event
    serving: asyncio.Task[None]

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics._registry.get_sample_value(name, labels)
        return 0.0 if found is None else found

    async def until_idle(self) -> None:
        """Waits until no request is in flight; a leak runs into the test's time-out."""
        while self.value("baton_requests_in_flight") or self.services.live:
            await asyncio.sleep(0)

    @asynccontextmanager
    async def grpc_server(self, drain_s: float = 0.0, **tls: str) -> AsyncIterator[int]:
        """A gRPC server on this gateway's services, which ends with it; gives its port."""
        encoder = PromptEncoder(self.services.model.tokenizer)
        preparer = Preparer(self.services.model, encoder)
        try:
            address = GrpcAddress("127.0.0.1", 0, **tls)
            server = GrpcServer(address, self.services, preparer, DISTRIBUTION)
            async with serving(server, self.stop, drain_s):
                yield server.port
        finally:
            encoder.close()
            preparer.close()

    @asynccontextmanager
    async def grpc_channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to a gRPC server on this gateway's services, with a small window."""
        async with (
            self.grpc_server() as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=SMALL_WINDOW) as channel,
        ):
            yield channel


StartGateway = Callable[..., Awaitable[RunningGateway]]


def deltas(
    tokens: Sequence[int],
    *,
    reason: FinishReason = FinishReason.LENGTH,
    num_cached_tokens: int = 0,
    per_delta: int = 1,
) -> list[OutputDelta]:
    """A well-behaved answer: tokens in order, then its end on the last delta."""
    parts = [tuple(tokens[start : start + per_delta]) for start in range(0, len(tokens), per_delta)]
    trace = RequestTrace("remote", "prefill-0", "decode-0", 1)
    last = OutputDelta(parts[-1] if parts else (), reason, num_cached_tokens, trace)
    return [*(OutputDelta(part) for part in parts[:-1]), last]


@pytest.fixture
def answer_of() -> Callable[..., list[OutputDelta]]:
    return deltas


@asynccontextmanager
async def running_gateway(
    model: ModelFiles,
    script: Script,
    drain_s: float = 5.0,
    encoder: PromptEncoder | None = None,
    send_buffer_bytes: int = 0,
    ignores_unknown: bool = False,
    usage_log: UsageLog | None = None,
    **limits: Any,
) -> AsyncIterator[RunningGateway]:
    router = FakeRouter(script)
    metrics, clock = Metrics(GATEWAY_METRICS), SystemClock()
    gate = limits.pop("gate", None) or Gate(None, clock)
    origins, tls = limits.pop("cors_origins", ()), limits.pop("tls", None)
    services = Services(
        model=model,
        source=router,
        meter=GatewayMeter(metrics, clock, usage_log),
        gate=gate,
        limits=Limits(**{"max_body_bytes": 64 << 10, "body_timeout_s": 20.0, **limits}),
    )
    encoder = encoder or PromptEncoder(model.tokenizer)
    preparer = Preparer(model, encoder, ignores_unknown)
    app = build_app(services, preparer, metrics.exposition, 1, origins)
    listener = socket.socket()
    if send_buffer_bytes:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    stop = asyncio.Event()
    serving = asyncio.create_task(serve_app(app, services, listener, stop, drain_s, tls))
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            await _until_listening(port)
            yield RunningGateway(url, port, router, client, services, metrics, stop, serving)
    finally:
        stop.set()
        await serving
        encoder.close()
        preparer.close()
    assert router.running == set()
    assert services.live == set()
    assert metrics._registry.get_sample_value("baton_requests_in_flight") == 0


async def _until_listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0)
            continue
        writer.close()
        await writer.wait_closed()
        return


@pytest.fixture
def start_gateway(model: ModelFiles) -> Callable[..., Any]:
    """start_gateway(script, ...) is an async context manager of a RunningGateway."""

    def start(script: Script, **options: Any) -> Any:
        return running_gateway(options.pop("model", model), script, **options)

    return start


@pytest.fixture(scope="session")
def gateway_of() -> Callable[..., Any]:
    """gateway_of(model, script, ...): for fixtures that outlive one test."""
    return running_gateway


@pytest.fixture(scope="session")
def answers() -> Callable[..., list[OutputDelta]]:
    return deltas


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    return write_model_directory


def parse_events(body: str) -> list[Any]:
    """The payloads of a server-sent event stream, which has to end with [DONE]."""
    blocks = body.split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


@pytest.fixture
def events_of() -> Callable[[str], list[Any]]:
    return parse_events


@pytest.fixture
def encode(model: ModelFiles) -> Callable[[str], list[int]]:
    return lambda text: model.tokenizer.encode(text, add_special_tokens=False).ids


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """These tests run on the loop that the gateway runs on."""
    return {"uvloop": uvloop.new_event_loop}
