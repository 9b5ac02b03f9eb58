"""A tiny model with its oracle, and engines that are checked after every step and every test."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import transformers

from engine.engine import Engine
from engine.host_memory import PlainHostMemory
from engine.models import Model, ModelConfig
from engine.options import EngineConfig
from engine.results import SeqOutput
from engine.sequence import EngineRequest
from engine.speculation.drafter import Drafter
from engine.speculation.speculator import Speculator
from engine.weights import load
from runtime.clock import VirtualClock
from wire.block_hash import block_hashes
from wire.messages import FinishReason, SamplingParams

sys.path.append(str(Path(__file__).parent))  # for tiny_shapes
from greedy_reference import greedy_answer
from tiny_shapes import LATENT, TINY

VOCAB = 320
MAX_LEN = 2304
SHAPE = {**TINY, "vocab_size": VOCAB, "head_dim": 16, "max_position_embeddings": MAX_LEN}
KINDS: dict[str, dict[str, object]] = {
    "DeepseekV3": {**LATENT, "n_group": 4, "topk_group": 2},
    "Llama": {},
    "Mistral": {"sliding_window": 48},
    "Qwen2": {},
    "Qwen3": {},
}


class Oracle:
    """A tiny random model here, and its greedy answers by transformers."""

    def __init__(self, kind: str, directory: Path, **shape: object) -> None:
        torch.manual_seed(11)
        settings = {key: value for key, value in SHAPE.items() if key != "head_dim"}
        config = getattr(transformers, f"{kind}Config")(**{**settings, **KINDS[kind], **shape})
        self.reference = transformers.AutoModelForCausalLM.from_config(config).eval()
        self.reference.save_pretrained(directory)
        self.model: Model = load(directory, ModelConfig.from_directory(directory), torch.float32)
        self._answers: dict[tuple[int, ...], list[int]] = {}

    def answer(self, prompt: tuple[int, ...], num_tokens: int) -> list[int]:
        known = self._answers.get(prompt, [])
        if len(known) < num_tokens:
            known = self._answers[prompt] = greedy_answer(self.reference, prompt, num_tokens)
        return known[:num_tokens]


@dataclass
class Stream:
    """What one sequence emitted."""

    tokens: list[int] = field(default_factory=list)
    first_index: int = -1
    finish: FinishReason | None = None


class Driver:
    """An engine over its own cache whose invariants are checked around every step."""

    def __init__(
        self,
        model: Model,
        drafter: Drafter | None = None,
        max_drafts: int = 4,
        num_host_slots: int = 0,
        **limits: int,
    ) -> None:
        settings = {"num_blocks": 256, "max_model_len": MAX_LEN, **limits}
        self.config = EngineConfig(eos_token_ids=(2,), **settings)
        # What was never computed must not be read: it would turn every logit into NaN.
        self.kv = torch.full(model.config.kv_shape(self.config.num_blocks), float("nan"))
        self.clock = VirtualClock()
        speculator = drafter and Speculator(drafter, max_drafts, self.clock)
        self.host = PlainHostMemory(self.kv, num_host_slots, self.clock)
        self.engine = Engine(
            model, self.kv, self.config, self.clock, speculator=speculator, host=self.host
        )
        self.num_drafts = self.num_accepted = self.num_steps = 0
        self.streams: dict[int, Stream] = {}
        self.max_step_tokens = 0

    def step(self) -> bool:
        """One step; False when the engine has nothing to do."""
        plan = self.engine.schedule()
        self.engine.check_integrity()
        if plan is None:
            assert not self.engine.has_work
            return False
        self.max_step_tokens = max(self.max_step_tokens, plan.num_tokens)
        self.clock.advance(0.25)
        result = self.engine.execute(plan)
        self.engine.check_integrity()
        assert result.num_prefill_tokens + result.num_decode_tokens == plan.num_tokens
        self.num_steps += 1
        self.num_drafts += result.num_drafts
        self.num_accepted += result.num_accepted
        for output in result.outputs:
            self._record(output)
        return True

    def run(self) -> dict[int, list[int]]:
        """Steps until nothing can go on; the tokens of every sequence."""
        while self.step():
            pass
        return {seq_id: stream.tokens for seq_id, stream in self.streams.items()}

    def _record(self, output: SeqOutput) -> None:
        stream = self.streams.setdefault(output.seq_id, Stream())
        assert stream.finish is None, "a token after the last one"
        if not stream.tokens:
            stream.first_index = output.index
            assert output.times is not None
        assert output.index == stream.first_index + len(stream.tokens), "a gap or a repetition"
        assert output.token == output.token % VOCAB
        stream.tokens.append(output.token)
        stream.finish = output.finish

    def close(self) -> None:
        """No live sequence: no referenced block."""
        for seq_id in list(self.engine._sequences):
            self.engine.cancel(seq_id)
        self.engine.check_integrity()
        load = self.engine.load()
        assert load.num_free_blocks == load.num_blocks


def request_of(
    seq_id: int,
    prompt: tuple[int, ...],
    max_tokens: int = 8,
    *,
    salt: str = "",
    outputs: tuple[int, ...] = (),
    prefill_only: bool = False,
    priority: int = 0,
    **sampling: object,
) -> EngineRequest:
    """A greedy request that ignores the end token, unless told otherwise."""
    params = {"temperature": 0.0, "ignore_eos": True, "max_tokens": max_tokens, **sampling}
    return EngineRequest(
        seq_id=seq_id,
        prompt_tokens=prompt,
        sampling=SamplingParams(**params),
        block_hashes=tuple(block_hashes(prompt, salt)),
        output_tokens=outputs,
        prefill_only=prefill_only,
        cache_salt=salt,
        priority=priority,
    )


def prompt_of(length: int, seed: int = 0) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist())


@pytest.fixture(scope="session")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Oracle]:
    built: dict[str, Oracle] = {}

    def get(kind: str) -> Oracle:
        if kind not in built:
            built[kind] = Oracle(kind, tmp_path_factory.mktemp(kind))
        return built[kind]

    return get


@pytest.fixture(params=sorted(KINDS))
def each_oracle(request: pytest.FixtureRequest, oracles: Callable[[str], Oracle]) -> Oracle:
    """Every architecture in turn."""
    return oracles(request.param)


@pytest.fixture
def oracle(oracles: Callable[[str], Oracle]) -> Oracle:
    """One architecture, for what does not depend on it."""
    return oracles("Qwen3")


@pytest.fixture(scope="session")
def deep_oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """One with layers to read states between."""
    return Oracle("Qwen3", tmp_path_factory.mktemp("deep"), num_hidden_layers=8)


@pytest.fixture
def drive() -> Iterator[Callable[..., Driver]]:
    """Makes engines, and checks after the test that each one gave everything back."""
    drivers: list[Driver] = []

    def make(model: Model, drafter: Drafter | None = None, **limits: int) -> Driver:
        drivers.append(Driver(model, drafter, **limits))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.close()


@pytest.fixture
def make_request() -> Callable[..., EngineRequest]:
    return request_of


@pytest.fixture
def make_prompt() -> Callable[..., tuple[int, ...]]:
    return prompt_of
