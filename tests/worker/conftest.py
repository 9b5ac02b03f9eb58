"""Two workers' cores in one process, joined by a real fabric over loopback."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from decode_worker.intake import Intake
from engine.config import ModelConfig
from engine.direct_path import DirectPath
from engine.engine import Engine
from engine.host_mirror import HostMirror
from engine.kv_cache import allocate_kv, kv_layout, kv_tensor
from engine.kv_path import KVPath
from engine.models import Model
from engine.options import EngineConfig
from engine.rope_config import RopeConfig
from engine.weights import load, random_model
from kv_transfer.config import TransferConfig
from kv_transfer.device_twin import TwinMemory
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.memory import KVMemory
from prefill_worker.publisher import Publisher
from runtime.clock import Clock, SystemClock
from wire.block_hash import BLOCK_SIZE, block_hashes
from wire.messages import GenerateRequest, LegEvent, LegTokens, Role, SamplingParams, StartLeg
from worker.commands import Command, Join, Pulled, Released, Start
from worker.core import WorkerCore
from worker.inbox import Inbox

sys.path.append(str(Path(__file__).parent))  # for leg_runs
sys.path.append(str(Path(__file__).parents[1] / "engine"))  # for eagle_heads

SESSION = 1
# A pull ends because of what a test does, never because a busy host was slow.
PATIENT = TransferConfig(
    heartbeat_s=0.1, dead_after_s=600.0, stall_s=60.0, slack_s=600.0, connect_s=60.0
)
MODEL = ModelConfig(
    architecture="Qwen3ForCausalLM",
    num_layers=3,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=64,
    vocab_size=128,
    rope=RopeConfig(theta=10000.0),
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    qk_norm=True,
    qkv_bias=False,
    o_bias=False,
    mlp_bias=False,
    layer_windows=(None, None, None),
    max_position_embeddings=2048,
)


@dataclass
class Worker:
    """A core with its inbox; the test is the owner thread."""

    core: WorkerCore
    inbox: Inbox
    exporter: Exporter
    importer: Importer
    events: list[LegEvent] = field(default_factory=list)

    def apply(self, command: Command) -> None:
        self.core.apply(command)
        self._collect()

    def turn(self) -> bool:
        """Applies what waits in the inbox and runs one step; whether a step ran."""
        while (command := self.inbox.take(block=False)) is not None:
            self.core.apply(command)  # type: ignore[arg-type]
        plan = self.core.begin_step()
        if plan is not None:
            self.core.run_step(plan)
        self._collect()
        return plan is not None

    def of(self, leg_id: int) -> list[LegEvent]:
        return [event for event in self.events if event.leg_id == leg_id]

    def tokens(self, leg_id: int) -> list[int]:
        found = [event for event in self.of(leg_id) if isinstance(event, LegTokens)]
        return [token for event in found for token in event.tokens]

    def _collect(self) -> None:
        self.events.extend(self.core.take_outbox().events.get(SESSION, []))


@pytest.fixture(
    params=["one pool", "mirrored pool", "direct pool", pytest.param("gpu", marks=pytest.mark.gpu)]
)
def make_worker(request: pytest.FixtureRequest) -> Iterator[Callable[..., Worker]]:
    """A function that builds a worker core; all share the same random weights.

    With a mirror the engine computes in a pool of its own, as on a device; a direct pool is read
    and written by the lanes between devices. Leases end by `lease_clock`.
    """
    made: list[tuple[Worker, KVMemory, KVPath | None]] = []
    epochs = itertools.count(1)

    def make(
        role: Role,
        num_blocks: int = 128,
        block_size: int = BLOCK_SIZE,
        directory: Path | None = None,
        lease_clock: Clock | None = None,
    ) -> Worker:
        config = MODEL if directory is None else ModelConfig.from_directory(directory)
        layout = kv_layout(config, torch.float32, num_blocks, block_size)
        is_direct = request.param == "direct pool"
        memory = (TwinMemory if is_direct else KVMemory.allocate)(layout.pool_bytes)
        inbox, clock = Inbox(), SystemClock()
        transfer = replace(PATIENT, device_path="direct" if is_direct else "host")
        kv = host_kv = kv_tensor(memory.buffer, layout)
        path: KVPath | None = None
        device = "cuda" if request.param == "gpu" else "cpu"
        if is_direct:
            path = DirectPath(kv.device, memory.fence)
        elif request.param != "one pool":
            kv = allocate_kv(layout, device)
            path = HostMirror(kv, host_kv)
        engine = Engine(
            _model(config, directory, device),
            kv,
            EngineConfig(
                num_blocks=num_blocks,
                max_model_len=1024,
                block_size=block_size,
                max_batch_tokens=64,
            ),
            clock,
        )
        exporter = Exporter(
            layout, memory, role.value, next(epochs), lease_clock or clock, b"secret", transfer,
            on_released=lambda seq_id: inbox.post(Released(seq_id)),
        )  # fmt: skip
        exporter.start("127.0.0.1")
        importer = Importer(layout, memory, clock, b"secret", transfer)
        intake = Intake(
            engine, importer, block_size, lambda result: inbox.post(Pulled(result)), path
        )
        publisher = Publisher(exporter, config.num_layers, 2, path, block_size)
        core = WorkerCore(role, engine, publisher, intake)
        worker = Worker(core, inbox, exporter, importer)
        worker.apply(Join(SESSION))
        made.append((worker, memory, path))
        return worker

    yield make
    for worker, memory, path in made:
        worker.importer.close()
        worker.exporter.close()
        worker.turn()
        worker.core.check_integrity()
        if path is not None:
            path.close()
        memory.close()


def _model(config: ModelConfig, directory: Path | None, device: str) -> Model:
    """Random weights, the same each time, or a directory's."""
    if directory is None:
        return random_model(config, torch.float32, 3, device, kernels="reference")
    return load(directory, config, torch.float32, torch.device(device))


@pytest.fixture
def drive() -> Callable[..., None]:
    """A function that turns workers' loops until a condition holds."""

    def run(until: Callable[[], bool], *workers: Worker, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, [w.events[-5:] for w in workers]
            if not sum(worker.turn() for worker in workers):
                time.sleep(0.001)  # fabric threads are at work; this thread has nothing to run

    return run


@pytest.fixture
def start_leg() -> Callable[..., Start]:
    """A function that builds the command to start a greedy leg."""

    def build(leg_id: int, prompt: tuple[int, ...], max_tokens: int = 8, **leg: object) -> Start:
        request = GenerateRequest(
            request_id=f"r{leg_id}",
            prompt_tokens=prompt,
            sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
            block_hashes=tuple(block_hashes(prompt)),
        )
        return Start(SESSION, StartLeg(leg_id, request, **leg))  # type: ignore[arg-type]

    return build
