"""The whole engine on one device: what of a decode step is its own work, and its tokens beside
those of `transformers` generate, with the same weights in the same run."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from baton.bench.gpu_model import LLAMA_8B, QWEN3_06B, DeviceTensors
from baton.bench.gpu_timer import cuda_device
from baton.bench.row import Row, rows_or_reason
from engine.config import ModelConfig
from engine.decode_graphs import GraphedModel
from engine.engine import Engine
from engine.forward import ForwardModel
from engine.kernels import BatchInput
from engine.models import Model, build_model
from engine.options import EngineConfig
from engine.sequence import EngineRequest
from runtime.clock import SystemClock
from wire.messages import SamplingParams

CPU_GOAL_PERCENT = 5.0
NUM_TOKENS = 64
SPARE_BLOCKS = 1  # of a sequence, so that the scheduler lets all of them in at once
PROMPT = 32  # of the sequences whose steps are looked into; their host's work hardly grows with it


class TimedModel:
    """A model that waits for its device before and after each step, and adds up its steps."""

    def __init__(self, model: ForwardModel) -> None:
        self._model = model
        self.seconds = 0.0

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def device(self) -> torch.device:
        return self._model.device

    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        _synchronise(self.device)
        started_s = time.perf_counter()
        logits = self._model.forward(batch, kv, on_layers)
        _synchronise(self.device)
        self.seconds += time.perf_counter() - started_s
        return logits


@dataclass(frozen=True, slots=True)
class Decoding:
    """`batch` equal greedy requests that an engine has brought past their prompts."""

    engine: Engine
    model: TimedModel

    @classmethod
    def begun(cls, model: Model, prompts: Sequence[Sequence[int]], num_tokens: int) -> "Decoding":
        """Each request gives `num_tokens`, of which the first is there. Equal prompts share
        nothing: their blocks are not hashed."""
        total = len(prompts[0]) + num_tokens
        config = EngineConfig(
            num_blocks=len(prompts) * (-(-total // 16) + SPARE_BLOCKS),
            max_model_len=total,
            max_batch_tokens=sum(len(prompt) for prompt in prompts),
            max_num_seqs=len(prompts),
        )
        kv = torch.zeros(
            model.config.kv_shape(config.num_blocks), dtype=model.dtype, device=model.device
        )
        whole: ForwardModel = model
        if model.device.type == "cuda":
            whole = GraphedModel(model, kv, [len(prompts)], config.max_table_blocks)
        timed = TimedModel(whole)
        engine = Engine(timed, kv, config, SystemClock())
        sampling = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
        for index, prompt in enumerate(prompts):
            engine.add(EngineRequest(index, tuple(prompt), sampling))
        decoding = cls(engine, timed)
        decoding.step()
        return decoding

    def step(self) -> list[int]:
        """One step; its tokens in the order of the requests."""
        plan = self.engine.schedule()
        assert plan is not None, "the requests have ended"
        outputs = self.engine.execute(plan).outputs
        return [output.token for output in sorted(outputs, key=lambda output: output.seq_id)]

    def own_share(self) -> float:
        """Of one step, what the model and the device had no part in."""
        self.model.seconds = 0.0
        started_s = time.perf_counter()
        self.step()
        return 1 - self.model.seconds / (time.perf_counter() - started_s)


def cpu_share(name: str, model: Model, batch: int, repeats: int) -> Row:
    """The engine's share of a decode step, nothing of it hidden behind the device's work."""
    decoding = Decoding.begun(model, _prompts(model, batch, PROMPT), repeats + 2)
    percent = 100 * median(decoding.own_share() for _ in range(repeats))
    ratio = CPU_GOAL_PERCENT / percent
    return Row(f"{name}.cpu_share.{batch}", percent, "%", "goal", CPU_GOAL_PERCENT, ratio)


def beside_transformers(
    name: str, peer: Any, model: Model, batch: int, prompt: int, repeats: int
) -> Row:
    """Milliseconds a token of `batch` sequences, in turn with generate; both greedy, one run."""
    prompts = _prompts(model, batch, prompt)
    own_ms, peer_ms = [], []
    for _ in range(min(repeats, 3)):
        own_ms.append(_own_ms(model, prompts))
        peer_ms.append(_peer_ms(peer, prompts))
    own, theirs = median(own_ms), median(peer_ms)
    label = f"{name}.generate.{batch}x{prompt}"
    return Row(label, own, "ms", "transformers generate", theirs, theirs / own)


def twin(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """transformers' model of that shape, with random weights of its own. Raises ImportError."""
    import transformers

    kind = config.architecture.removesuffix("ForCausalLM")
    fields = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope.theta},
    }
    shape = getattr(transformers, f"{kind}Config")(**fields)
    makers: Any = transformers.AutoModelForCausalLM  # whose makers have no annotations
    with device:
        return makers.from_config(shape, dtype=dtype).eval()


@dataclass(frozen=True, slots=True)
class TensorsOf:
    """A loaded model's weights, as a checkpoint has them."""

    tensors: Mapping[str, Tensor]

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        found = self.tensors[name]
        assert tuple(found.shape) == shape, f"{name} is {tuple(found.shape)}, not {shape}"
        return found


def generated(peer: Any, prompts: Sequence[Sequence[int]], num_tokens: int) -> Tensor:
    """[len(prompts), num_tokens]: what transformers' generate gives, greedy, without an end."""
    tokens = torch.tensor(prompts, device=peer.device)
    found: Tensor = peer.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return found[:, tokens.shape[1] :]


def run(repeats: int) -> list[Row]:
    """All rows, medians; a row that cannot be had says why. Raises NoDeviceError without a GPU."""
    device = cuda_device()
    rows: list[Row] = []
    for name, config, batches in (
        ("qwen3_06b", QWEN3_06B, ((1, 512), (64, 512))),
        ("llama_8b", LLAMA_8B, ((1, 4096),)),
    ):
        measure = partial(_of_model, name, config, batches, device, repeats)
        rows += rows_or_reason(name, measure)
        torch.cuda.empty_cache()
    return rows


def _of_model(
    name: str,
    config: ModelConfig,
    batches: Sequence[tuple[int, int]],
    device: torch.device,
    repeats: int,
) -> list[Row]:
    model = build_model(config, DeviceTensors(device), torch.bfloat16, device)
    rows = [cpu_share(name, model, 256, repeats)]
    del model
    peer = twin(config, device, torch.bfloat16)
    model = build_model(config, TensorsOf(peer.state_dict()), torch.bfloat16, device)
    for batch, prompt in batches:
        rows.append(beside_transformers(name, peer, model, batch, prompt, repeats))
    return rows


def _prompts(model: Model, batch: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    shape = (batch, length)
    tokens: list[list[int]] = torch.randint(
        1, model.config.vocab_size, shape, generator=generator
    ).tolist()
    return tokens


def _own_ms(model: Model, prompts: Sequence[Sequence[int]]) -> float:
    decoding = Decoding.begun(model, prompts, NUM_TOKENS)
    started_s = time.perf_counter()
    for _ in range(NUM_TOKENS - 1):
        decoding.step()
    return 1e3 * (time.perf_counter() - started_s) / (NUM_TOKENS - 1)


def _peer_ms(peer: Any, prompts: Sequence[Sequence[int]]) -> float:
    """Without its prefill, which one token alone costs too."""

    def seconds(num_tokens: int) -> float:
        started_s = time.perf_counter()
        generated(peer, prompts, num_tokens)
        _synchronise(peer.device)
        return time.perf_counter() - started_s

    return 1e3 * (seconds(NUM_TOKENS) - seconds(1)) / (NUM_TOKENS - 1)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
