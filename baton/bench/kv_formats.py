"""What the wire formats take, give and lose, on the bundled model's own KV."""

import time
from collections.abc import Callable
from statistics import mean, median

import numpy as np
import torch
from torch import Tensor

from baton.bench.row import Row
from baton.up_config import DEMO_MODEL
from engine.config import ModelConfig
from engine.engine import Engine
from engine.kernels import BatchInput
from engine.kv_cache import allocate_kv, kv_layout
from engine.models import Model
from engine.options import EngineConfig
from engine.sequence import EngineRequest
from engine.weights import load
from kv_transfer.formats import FORMATS, WireFormat
from runtime.clock import SystemClock
from wire.kv import KVLayout
from wire.messages import SamplingParams

PROMPT = 160
PROMPTS_PER_REPEAT = 8
NUM_BLOCKS = 16
KL_BOUND = 0.01  # nats
_Spoil = Callable[[Tensor], None]


def run(repeats: int) -> list[Row]:
    """kv.format.*: bytes on the wire a byte of KV; MB/s of KV, coded and decoded on one core; and
    for fp8 what it does to the next token's distribution after a prompt of the model's own text.
    """
    torch.set_num_threads(1)
    bench = _Bench()
    prompts = [bench.prompt(seed) for seed in range(repeats * PROMPTS_PER_REPEAT)]
    bench.logits(prompts[0])
    raw = np.concatenate([bench.bytes()] * 4)
    rows = [row for name in FORMATS for row in _speed(FORMATS[name], raw, bench.layout, repeats)]
    return rows + _error(bench, prompts)


def _speed(chosen: WireFormat, raw: np.ndarray, layout: KVLayout, repeats: int) -> list[Row]:
    times_s, sent = [], chosen.encode(raw, layout)
    for _ in range(repeats):
        begin_s = time.perf_counter()
        chosen.decode(chosen.encode(raw, layout), layout, raw.size)
        times_s.append(time.perf_counter() - begin_s)
    ratio, rate = sent.size / raw.size, raw.size / median(times_s) / 1e6
    assumed = 1e-6 / chosen.cost_s_per_byte
    name = f"kv.format.{chosen.name}"
    return [
        Row(f"{name}.ratio", ratio, "", "assumed", chosen.ratio, ratio / chosen.ratio),
        Row(f"{name}.rate", rate, "MB/s", "assumed", assumed, rate / assumed),
    ]


def _error(bench: "_Bench", prompts: list[tuple[int, ...]]) -> list[Row]:
    divergences, agreed, largest = [], [], []
    for prompt in prompts:
        plain, coded = bench.logits(prompt), bench.logits(prompt, bench.through_fp8)
        p, q = plain.log_softmax(-1), coded.log_softmax(-1)
        divergences.append(float((p.exp() * (p - q)).sum()))
        agreed.append(float(plain.argmax() == coded.argmax()))
        largest.append(float((plain - coded).abs().max()))
    kl, same, spread = mean(divergences), mean(agreed), mean(largest)
    return [
        Row("kv.format.fp8.kl", kl, "nats", "bound", KL_BOUND, kl / KL_BOUND),
        Row("kv.format.fp8.same_token", same, "", "as it is", 1.0, same),
        Row("kv.format.fp8.logit_error", spread, "", "largest of the vocabulary", 0.0, 0.0),
    ]


class _Tap:
    """A model that keeps its last logits."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.config = model.config
        self.device = model.device
        self.last = torch.empty(0)

    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        self.last = self._model.forward(batch, kv, on_layers)
        return self.last


class _Bench:
    """The bundled model in bfloat16 on one engine; nothing is cached between prompts."""

    def __init__(self) -> None:
        config = ModelConfig.from_directory(DEMO_MODEL)
        self._tap = _Tap(load(DEMO_MODEL, config, torch.bfloat16))
        self.layout = kv_layout(config, torch.bfloat16, NUM_BLOCKS)
        self._kv = allocate_kv(self.layout)
        options = EngineConfig(num_blocks=NUM_BLOCKS, max_model_len=NUM_BLOCKS * 16)
        self._engine = Engine(self._tap, self._kv, options, SystemClock())
        self._num_requests = 0

    def prompt(self, seed: int) -> tuple[int, ...]:
        """Text that the model itself makes."""
        start = (10 + seed * 37 % 1000,)
        tokens = list(start)
        sampling = SamplingParams(
            temperature=1.0, seed=seed, max_tokens=PROMPT - 1, ignore_eos=True
        )
        self._start(start, sampling)
        while len(tokens) < PROMPT:
            tokens.append(self._step())
        return tuple(tokens)

    def logits(self, prompt: tuple[int, ...], spoil: _Spoil | None = None) -> Tensor:
        """Of the token behind the prompt and its greedy successor; `spoil` changes the prompt's
        KV in between. [vocab] float32"""
        self._start(prompt, SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True))
        self._step()
        if spoil is not None:
            spoil(self._kv)
        self._step()
        return self._tap.last[0].clone()

    def bytes(self) -> np.ndarray:
        """The whole cache."""
        return self._kv.view(torch.uint8).numpy().reshape(-1)

    def through_fp8(self, kv: Tensor) -> None:
        """What a transfer in fp8 would leave in the cache."""
        raw, fp8 = self.bytes(), FORMATS["fp8"]
        raw[:] = fp8.decode(fp8.encode(raw, self.layout), self.layout, raw.size)

    def _start(self, prompt: tuple[int, ...], sampling: SamplingParams) -> None:
        self._num_requests += 1
        self._engine.add(EngineRequest(self._num_requests, prompt, sampling))

    def _step(self) -> int:
        plan = self._engine.schedule()
        assert plan is not None
        (output,) = self._engine.execute(plan).outputs
        return output.token
