"""Guessed tokens on the CPU: the Qwen3-0.6B shape with prompt lookup beside plain decoding.

    python -m baton.bench.speculation [--repeats N]

The model computes every step in full, and a script says which tokens come: how often a guess is
right is a property of a text, and random weights write none.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baton.bench.cpu_ceiling import alternate
from baton.bench.engine import QWEN3_06B
from baton.bench.row import Row
from engine.config import ModelConfig
from engine.engine import Engine
from engine.kernels import BatchInput
from engine.models import Model
from engine.options import EngineConfig
from engine.sequence import EngineRequest
from engine.speculation.lookup import PromptLookup
from engine.speculation.speculator import Speculator
from engine.weights import random_model
from runtime.clock import SystemClock
from wire.messages import SamplingParams

NUM_PROMPT = 64
NUM_TOKENS = 128
MAX_DRAFTS = 4
BATCHES = (1, 8)
_PERIOD = 24
_FEW = 4

# The token at each position.
Script = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def repetitive(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """A phrase of 24 tokens again and again: every guess is right."""
    return positions % _PERIOD + 100


def misleading(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Four tokens at random: the text always has an earlier place like its end, and what came
    after that is right one time in four."""
    return _mixed(positions) % _FEW + 100


def without_repetition(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens that do not come again: nothing can be guessed."""
    return positions + 100


TEXTS: dict[str, Script] = {
    "repetitive": repetitive,
    "misleading": misleading,
    "without_repetition": without_repetition,
}


def run(repeats: int) -> Iterator[Row]:
    """Rows by text and batch: tokens a second of decoding, guessing and plain in turn."""
    model = random_model(QWEN3_06B, torch.bfloat16, seed=0)
    for name, script in TEXTS.items():
        for batch in BATCHES:
            bench = SpeculationBench(ScriptedModel(model, script), batch)
            yield bench.row(f"engine.speculate.{name}.b{batch}", repeats)


class ScriptedModel:
    """A model that computes its steps and then says what the script says."""

    def __init__(self, model: Model, script: Script) -> None:
        self._model = model
        self.script = script

    @property
    def config(self) -> ModelConfig:
        return self._model.config

    @property
    def device(self) -> torch.device:
        return self._model.device

    @torch.inference_mode()
    def forward(
        self, batch: BatchInput, kv: Tensor, on_layers: Callable[[int], None] | None = None
    ) -> Tensor:
        """Logits [L, vocab] float32."""
        logits = self._model.forward(batch, kv, on_layers)
        said = self.script(batch.positions.numpy()[batch.logit_rows.numpy()] + 1)
        logits.zero_()
        logits[torch.arange(len(said)), torch.from_numpy(said)] = 1.0
        return logits


@dataclass(frozen=True, slots=True)
class SpeculationBench:
    """Equal greedy requests over one scripted model."""

    model: ScriptedModel
    batch: int

    def row(self, name: str, repeats: int) -> Row:
        """Tokens a second with lookup, the same run's without, and the median of their ratios."""
        guessing, plain = (partial(self.decode, guesses) for guesses in (True, False))
        theirs_s: list[float] = []
        own_s: list[float] = []
        alternate([lambda: own_s.append(guessing()), lambda: theirs_s.append(plain())], repeats)
        ratio = median(b / a for a, b in zip(own_s, theirs_s, strict=True))
        rate = self.batch * (NUM_TOKENS - 1) / median(own_s)
        return Row(name, rate, "tokens/s", "plain decode", rate / ratio, ratio)

    def decode(self, guesses: bool) -> float:
        """Seconds from the first tokens to the last ones of a new engine."""
        engine = self._engine(guesses)
        prompt = tuple(self.model.script(np.arange(NUM_PROMPT)).tolist())
        sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
        for seq_id in range(self.batch):
            engine.add(EngineRequest(seq_id, prompt, sampling))
        first = engine.schedule()
        assert first is not None
        engine.execute(first)
        started_s = time.perf_counter()
        while (plan := engine.schedule()) is not None:
            engine.execute(plan)
        return time.perf_counter() - started_s

    def _engine(self, guesses: bool) -> Engine:
        config, clock = self.model.config, SystemClock()
        options = EngineConfig(
            num_blocks=self.batch * (NUM_PROMPT + NUM_TOKENS) // 16 + self.batch,
            max_model_len=NUM_PROMPT + NUM_TOKENS,
            max_batch_tokens=self.batch * NUM_PROMPT,
        )
        kv = torch.zeros(config.kv_shape(options.num_blocks), dtype=config.dtype)
        speculator = Speculator(PromptLookup(), MAX_DRAFTS, clock) if guesses else None
        return Engine(self.model, kv, options, clock, speculator=speculator)


def _mixed(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers without a pattern that a lookup could find."""
    values = (positions + 1) * 2654435761 % (1 << 32)
    return (values ^ (values >> 15)) * 2246822519 % (1 << 32) >> 13


def main() -> None:
    """Print the rows as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    for row in run(parser.parse_args().repeats):
        print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    main()
