"""Real clusters for the end-to-end tests: `baton up` as a user starts it, on tiny models."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from router.candidates import WorkerState
from router.config import RouterConfig
from router.router import Router
from runtime.clock import SystemClock
from runtime.lifecycle import free_port, new_id
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire import rpc
from wire.block_hash import block_hashes
from wire.cluster import ClusterStatus, ControlOrder, OrderKind, WorkerInfo, WorkerStatus
from wire.messages import GenerateRequest, Role, SamplingParams, WorkerReport

VOCAB_SIZE = 512
START_TIMEOUT_S = 120.0
torch.set_num_threads(1)  # more would spin against the workers that a test waits for
TOKEN = "a-cluster-token-for-tests"

_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "initializer_range": 0.4,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
_WITHOUT_HEAD_DIM = {name: value for name, value in _COMMON.items() if name != "head_dim"}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
}

ARCHITECTURES: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "llama2": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**_COMMON)),
    "llama3": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**_COMMON, rope_parameters=_LLAMA3_ROPE)
    ),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**_COMMON, sliding_window=100)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_WITHOUT_HEAD_DIM)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**_COMMON)),
    "qwen3_moe": lambda: transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            **_COMMON, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48
        )
    ),
    "olmo2": lambda: transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**_WITHOUT_HEAD_DIM)),
    "deepseek_v3": lambda: transformers.DeepseekV3ForCausalLM(
        transformers.DeepseekV3Config(**_WITHOUT_HEAD_DIM | _LATENT)
    ),
}


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from an architecture's name to a directory with a tiny random fp32 model."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            directory = tmp_path_factory.mktemp("models") / architecture
            torch.manual_seed(7)
            ARCHITECTURES[architecture]().to(torch.float32).save_pretrained(directory)
            _save_tokenizer(directory)
            made[architecture] = directory
        return made[architecture]

    return make


def _save_tokenizer(directory: Path) -> None:
    """One token a printable word, so that every token id is visible in the text."""
    vocabulary = {"<end>": 0, "<unk>": 1}
    for index in range(2, VOCAB_SIZE):
        vocabulary[f"w{index}"] = index
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    config = {"chat_template": template, "eos_token": "<end>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def reference(
    model_directory: Callable[[str], Path],
) -> Callable[[str, Sequence[int], int], list[int]]:
    """Greedy tokens of `transformers` for (architecture, prompt, number of tokens)."""
    loaded: dict[str, transformers.PreTrainedModel] = {}

    def generate(architecture: str, prompt: Sequence[int], num_tokens: int) -> list[int]:
        if architecture not in loaded:
            loaded[architecture] = transformers.AutoModelForCausalLM.from_pretrained(
                model_directory(architecture), dtype=torch.float32
            ).eval()
        with torch.no_grad():
            output = loaded[architecture].generate(
                torch.tensor([list(prompt)]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return [int(token) for token in output[0, len(prompt) :]]

    return generate


def random_prompt(length: int, seed: int) -> tuple[int, ...]:
    generator = random.Random(seed)
    return tuple(generator.randrange(2, VOCAB_SIZE) for _ in range(length))


@pytest.fixture(scope="session")
def prompt_of() -> Callable[[int, int], tuple[int, ...]]:
    """A function from (length, seed) to a prompt of random tokens."""
    return random_prompt


@dataclass
class Cluster:
    """A running `baton up` and what a test needs to look at it."""

    process: subprocess.Popen[bytes]
    http_port: int
    control_port: int
    operator_port: int
    log_path: Path
    _pids: set[int] = field(default_factory=set)
    _reports: list[WorkerReport] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def token(self) -> str:
        """Of the cluster and of its operators."""
        return TOKEN

    def status(self) -> ClusterStatus:
        async def fetch() -> ClusterStatus:
            channel = rpc.open_channel(f"127.0.0.1:{self.control_port}")
            try:
                # The first try to connect may fail on a host that is slow to answer.
                await asyncio.wait_for(channel.channel_ready(), 60)
                return await rpc.fetch_status(channel, TOKEN, timeout_s=60)
            finally:
                await channel.close()

        status = asyncio.run(fetch())
        self._pids.update(process.pid for process in status.processes if process.pid)
        return status

    def workers(self, role: Role) -> list[WorkerStatus]:
        return [worker for worker in self.status().workers if worker.info.role is role]

    async def wait_idle(self) -> None:
        """Until no worker holds a sequence, an export, an import or a referenced block."""
        deadline = time.monotonic() + 45
        while not await asyncio.to_thread(self._is_idle):
            assert time.monotonic() < deadline, self._reports
            await asyncio.sleep(0.2)

    def _is_idle(self) -> bool:
        reports = self._reports = [worker.report for worker in self.status().workers]
        return all(
            not (r.num_running or r.num_waiting or r.num_exports or r.num_imports)
            and r.num_free_blocks == r.num_blocks
            for r in reports
        )

    def signal_workers(self, role: Role, number: int) -> list[int]:
        pids = [worker.info.pid for worker in self.workers(role)]
        for pid in pids:
            os.kill(pid, number)
        return pids

    def stop(self) -> None:
        """SIGTERM, and everything it started is gone; no pool ever reported a broken invariant."""
        self.status()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log_path.read_text()[-4000:]
        logs = [path.read_text(errors="replace") for path in self.log_path.parent.rglob("*.log")]
        assert not any("integrity_failed" in text for text in logs)
        leftovers = [pid for pid in self._pids if Path(f"/proc/{pid}").exists()]
        assert not leftovers, f"processes outlived `baton up`: {leftovers}"


@pytest.fixture(scope="session")
def start_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """A function that starts `baton up` on a model directory and waits until it serves."""
    running: list[Cluster] = []

    def launch(model: Path, *flags: str, prefill: int, decode: int) -> Cluster:
        state = tmp_path_factory.mktemp("state")
        http_port, grpc_port, control_port, operator_port = (free_port() for _ in range(4))
        command = [
            *(sys.executable, "-m", "baton", "up", "--model", str(model)),
            *("--prefill", str(prefill), "--decode", str(decode)),
            *("--port", str(http_port), "--control-port", str(control_port)),
            *("--http-port", str(operator_port), "--grpc-port", str(grpc_port)),
            *("--kv-memory", "64MiB", "--threads", "1", *flags),
        ]
        environment = {
            **os.environ,
            "BATON_STATE_DIR": str(state),
            "BATON_CLUSTER_TOKEN": TOKEN,
            "BATON_OPERATOR_TOKEN": TOKEN,
        }
        log_path = state / "up.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        cluster = Cluster(process, http_port, control_port, operator_port, log_path)
        running.append(cluster)
        return cluster

    def start(model: Path, *flags: str, prefill: int = 1, decode: int = 1) -> Cluster:
        for _ in range(3):
            cluster = launch(model, *flags, prefill=prefill, decode=decode)
            with contextlib.suppress(_PortTaken):
                _wait_ready(cluster)
                return cluster
        raise AssertionError(cluster.log_path.read_text()[-4000:])

    yield start
    for cluster in running:
        if cluster.process.poll() is None:
            cluster.stop()


class _PortTaken(Exception):
    """Another process has listened on a port between its choice and its use."""


def _wait_ready(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if cluster.process.poll() is not None:
            text = cluster.log_path.read_text()[-4000:]
            raise _PortTaken(text) if "is not free" in text else AssertionError(text)
        try:
            if httpx.get(f"{cluster.url}/readyz", timeout=2.0).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not ready in time:\n{cluster.log_path.read_text()[-4000:]}")


class Operator:
    """Orders to the cluster's workers, and what becomes of them."""

    def __init__(self, cluster: Any) -> None:
        self._channel = rpc.open_channel(f"127.0.0.1:{cluster.control_port}")

    async def close(self) -> None:
        await self._channel.close(None)

    async def info(self, worker_id: str) -> WorkerInfo:
        status = await rpc.fetch_status(self._channel, TOKEN)
        return next(w for w in status.workers if w.info.worker_id == worker_id).info

    async def report(self, worker_id: str) -> WorkerReport:
        status = await rpc.fetch_status(self._channel, TOKEN)
        return next(w for w in status.workers if w.info.worker_id == worker_id).report

    async def ids(self, role: Role) -> list[str]:
        status = await rpc.fetch_status(self._channel, TOKEN)
        return [w.info.worker_id for w in status.workers if w.info.role is role]

    async def flip(self, worker_id: str, role: Role) -> tuple[float, float]:
        """Seconds until the control plane knows the role, and until the old one's legs left."""
        started_s, taken_s = time.monotonic(), 0.0
        await self.order(worker_id, ControlOrder(OrderKind.FLIP, role))
        async with asyncio.timeout(60):
            while (info := await self.info(worker_id)).role is not role or info.flipping:
                if info.role is role and not taken_s:
                    taken_s = time.monotonic() - started_s
                await asyncio.sleep(0.005)
        whole_s = time.monotonic() - started_s
        return taken_s or whole_s, whole_s

    async def order(self, worker_id: str, order: ControlOrder) -> None:
        await rpc.send_order(self._channel, worker_id, order, TOKEN)


@pytest.fixture
async def open_operator() -> AsyncIterator[Callable[[Cluster], Operator]]:
    """A function that gives an operator of a running cluster."""
    opened: list[Operator] = []

    def open_one(cluster: Cluster) -> Operator:
        opened.append(Operator(cluster))
        return opened[-1]

    yield open_one
    for one in opened:
        await one.close()


def num_live(router: Router) -> int:
    return sum(worker.state is WorkerState.LIVE for worker in router.snapshot().workers)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Cluster], "asyncio.Future[Router]"]]:
    """A function that gives a router of its own on a running cluster: token ids in and out."""
    routers: list[Router] = []

    async def open_router(
        cluster: Cluster,
        num_workers: int = 2,
        policy: str = "uncached_tokens",
        **settings: Any,
    ) -> Router:
        config = RouterConfig(
            control_address=f"127.0.0.1:{cluster.control_port}",
            cluster_token=TOKEN,
            client_id=f"test-{len(routers)}",
            policy=policy,  # most tests say where a request runs
            **settings,
        )
        router = Router(config, SystemClock(), Metrics(GATEWAY_METRICS))
        await router.start()
        routers.append(router)
        async with asyncio.timeout(30):
            while num_live(router) < num_workers:
                await asyncio.sleep(0.05)
        return router

    yield open_router
    for router in routers:
        await router.stop()


def greedy(request_id: str, prompt: tuple[int, ...], max_tokens: int) -> GenerateRequest:
    return GenerateRequest(
        request_id=request_id,
        prompt_tokens=prompt,
        sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
        block_hashes=tuple(block_hashes(prompt)),
    )


@pytest.fixture(scope="session")
def greedy_request() -> Callable[[str, tuple[int, ...], int], GenerateRequest]:
    """A function from (id, prompt, max tokens) to a greedy request that no token ends early."""
    return greedy


@pytest.fixture(scope="session")
def collect() -> Callable[..., Any]:
    """A function that runs a request on a router: (tokens, trace of the last delta).

    on_tokens is called with the number of tokens so far, after each delta.
    """

    async def run(
        router: Router, request: GenerateRequest, on_tokens: Callable[[int], None] | None = None
    ) -> tuple[list[int], Any]:
        tokens: list[int] = []
        trace = None
        ends = 0
        async for delta in router.generate(request):
            tokens.extend(delta.tokens)
            trace = delta.trace or trace
            ends += delta.finish_reason is not None
            if on_tokens is not None:
                on_tokens(len(tokens))
        assert ends == 1, "a request ends in exactly one terminal event"
        return tokens, trace

    return run


@pytest.fixture(scope="session")
def ask_exactly(
    collect: Callable[..., Any], reference: Callable[[str, Sequence[int], int], list[int]]
) -> Callable[..., Any]:
    """A function that runs greedy requests on a router, all at once, and gives their traces.

    Each answer is what `transformers` gives for the prompt. Computing that blocks the event loop,
    so it is done when all have ended. on_tokens: as for `collect`.
    """

    async def run(
        router: Router,
        prompts: Sequence[tuple[int, ...]],
        num_tokens: int,
        on_tokens: Callable[[int], None] | None = None,
        architecture: str = "qwen3",
    ) -> list[Any]:
        requests = [greedy(new_id("r"), prompt, num_tokens) for prompt in prompts]
        answers = await asyncio.gather(*(collect(router, one, on_tokens) for one in requests))
        for prompt, (tokens, _) in zip(prompts, answers, strict=True):
            assert tokens == reference(architecture, prompt, num_tokens), len(prompt)
        return [trace for _, trace in answers]

    return run
