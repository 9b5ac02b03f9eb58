"""How much of a slow KV transfer prefill hides: two engines in one process, a throttled fabric."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import torch

from baton.bench.engine import QWEN3_06B
from baton.bench.row import Row
from decode_worker.intake import Intake
from engine.engine import Engine
from engine.kv_cache import kv_layout, kv_tensor
from engine.models import Model
from engine.options import EngineConfig
from engine.weights import random_model
from kv_transfer.config import TransferConfig
from kv_transfer.exporter import Exporter
from kv_transfer.importer import Importer
from kv_transfer.memory import KVMemory
from kv_transfer.pull import PullResult
from kv_transfer.transports.faulty import Faults, with_faults
from kv_transfer.transports.registry import TRANSPORTS
from prefill_worker.publisher import Publisher
from runtime.clock import SystemClock
from wire.block_hash import BLOCK_SIZE
from wire.kv import KVHandle, KVLayout
from wire.messages import (
    GenerateRequest,
    LegFinished,
    LegPublished,
    LegTokens,
    Role,
    SamplingParams,
    StartLeg,
)
from worker.commands import Join, Pulled, Released, Start
from worker.core import WorkerCore
from worker.engine_thread import EngineThread
from worker.inbox import Inbox
from worker.outbox import Outbox

PROMPT = 2048
CHUNK = 512
SLOWDOWN = 10.0
NUM_GROUPS = 8
NUM_BLOCKS = 3 * PROMPT // BLOCK_SIZE
SESSION = 1
_TIMEOUT_S = 120.0


def run(repeats: int) -> list[Row]:
    """engine.overlap.*: from prefill's end to the first token that decode computed, less the
    decode step itself, in ms; the baseline is the last layer group's transfer at the slowed rate.
    """
    model = random_model(QWEN3_06B, torch.bfloat16, seed=0)
    return [_row(transport, model, repeats) for transport in ("shm", "tcp")]


def _row(transport: str, model: Model, repeats: int) -> Row:
    with _pair(model, transport, Faults()) as pair:
        rate = median(pair.full_rate_bytes_s(seed) for seed in range(repeats))
    faults = Faults(rate_bytes_s=rate / SLOWDOWN)
    with _pair(model, transport, faults) as pair:
        exposed_s = median(pair.exposed_s(seed) for seed in range(100, 100 + repeats))
    layout = _layout()
    group_layers = -(-layout.num_layers // NUM_GROUPS)
    group_bytes = group_layers * (CHUNK // BLOCK_SIZE) * layout.region_bytes
    group_ms = 1e3 * group_bytes / faults.rate_bytes_s
    return Row(
        f"engine.overlap.{transport}",
        1e3 * exposed_s,
        "ms",
        f"last layer group at {faults.rate_bytes_s / 1e9:.2f} GB/s",
        group_ms,
        1e3 * exposed_s / group_ms,
    )


def _layout() -> KVLayout:
    return kv_layout(QWEN3_06B, torch.bfloat16, NUM_BLOCKS)


@dataclass
class _Worker:
    """One core on its own thread; events are stamped as they come."""

    core: WorkerCore
    inbox: Inbox
    exporter: Exporter
    importer: Importer
    seen: list[tuple[float, object]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def deliver(self, outbox: Outbox) -> None:
        now_s = time.perf_counter()
        with self.changed:
            self.seen.extend((now_s, event) for event in outbox.events.get(SESSION, []))
            self.seen.extend((now_s, pull) for pull in outbox.pulls)
            self.changed.notify_all()

    def wait_for(self, matches: Callable[[object], bool]) -> tuple[float, object]:
        """The first event since the last `clear` that matches, and when it came."""
        with self.changed:
            found: list[tuple[float, object]] = []

            def is_there() -> bool:
                found[:] = [entry for entry in self.seen if matches(entry[1])]
                return bool(found)

            if not self.changed.wait_for(is_there, _TIMEOUT_S):
                raise RuntimeError("the transfer did not come to its end")
            return found[0]

    def clear(self) -> None:
        with self.changed:
            self.seen.clear()


@dataclass
class _Pair:
    prefill: _Worker
    decode: _Worker
    _leg_id: int = 0

    def full_rate_bytes_s(self, seed: int) -> float:
        """Bytes per second of a pull that begins when all is computed."""
        handle = self._begin(seed)
        self.prefill.wait_for(lambda event: isinstance(event, LegFinished))
        self._decode(seed, handle)
        _, pull = self.decode.wait_for(lambda event: isinstance(event, PullResult))
        assert isinstance(pull, PullResult)
        return pull.num_bytes / pull.transfer_s

    def exposed_s(self, seed: int) -> float:
        """Seconds from prefill's end to decode's own first token, less the step that made it."""
        self._decode(seed, self._begin(seed))
        ended_s, _ = self.prefill.wait_for(lambda event: isinstance(event, LegFinished))
        decoded_s, _ = self.decode.wait_for(
            lambda event: isinstance(event, LegTokens) and event.index > 0
        )
        return decoded_s - ended_s - self.decode.core.report().step_s

    def _begin(self, seed: int) -> KVHandle:
        self._leg_id += 1
        self.prefill.clear()
        self.decode.clear()
        leg = StartLeg(self._leg_id, _request(seed), prefill_only=True)
        self.prefill.inbox.post(Start(SESSION, leg))
        _, event = self.prefill.wait_for(lambda event: isinstance(event, LegPublished))
        assert isinstance(event, LegPublished)
        return event.handle

    def _decode(self, seed: int, handle: KVHandle) -> None:
        self.decode.inbox.post(
            Start(SESSION, StartLeg(self._leg_id, _request(seed), handle=handle))
        )


def _request(seed: int) -> GenerateRequest:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(10, QWEN3_06B.vocab_size, (PROMPT,), generator=generator)
    sampling = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True)
    return GenerateRequest(f"r{seed}", tuple(tokens.tolist()), sampling, ())


@contextlib.contextmanager
def _pair(model: Model, transport: str, faults: Faults) -> Iterator[_Pair]:
    with contextlib.ExitStack() as stack:
        workers = [_worker(role, model, transport, faults, stack) for role in Role]
        for worker in workers:
            thread = EngineThread(worker.core, worker.inbox, worker.deliver, SystemClock())
            thread.start()
            stack.callback(thread.stop, _TIMEOUT_S)
            worker.inbox.post(Join(SESSION))
        yield _Pair(workers[0], workers[1])


def _worker(
    role: Role, model: Model, transport: str, faults: Faults, stack: contextlib.ExitStack
) -> _Worker:
    layout, clock, inbox = _layout(), SystemClock(), Inbox()
    memory = KVMemory.allocate(layout.pool_bytes)
    stack.callback(memory.close)
    options = EngineConfig(num_blocks=NUM_BLOCKS, max_model_len=4096, max_batch_tokens=CHUNK)
    engine = Engine(model, kv_tensor(memory.buffer, layout), options, clock)
    config = TransferConfig(transport=transport)
    exporter = Exporter(
        layout, memory, role.value, 1, clock, b"bench", config,
        on_released=lambda seq_id: inbox.post(Released(seq_id)),
    )  # fmt: skip
    stack.callback(exporter.close)
    exporter.start("127.0.0.1")
    transports = with_faults(TRANSPORTS, faults, clock)
    importer = Importer(layout, memory, clock, b"bench", config, transports=transports)
    stack.callback(importer.close)
    intake = Intake(engine, importer, BLOCK_SIZE, lambda result: inbox.post(Pulled(result)))
    core = WorkerCore(role, engine, Publisher(exporter, layout.num_layers, NUM_GROUPS), intake)
    return _Worker(core, inbox, exporter, importer)
