"""Architectures that run through transformers' layers: exact where served, else refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from greedy_reference import greedy_answer
from tiny_shapes import TINY
from torch import Tensor

from engine.errors import ModelError
from engine.fallback.config import read_config
from engine.fallback.model import FallbackModel, load_fallback
from engine.kernels import BatchInput

SHAPE = {**TINY, "num_hidden_layers": 3}
GPT2 = {"n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 512}
KINDS: dict[str, dict[str, Any]] = {
    "Olmo2": {},
    "Starcoder2": {"sliding_window": 40},
    "Granite": {"attention_multiplier": 0.2, "logits_scaling": 2.0},
    "GPT2": GPT2,
}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]


def saved(kind: str, directory: Path, **changes: Any) -> Any:
    torch.manual_seed(7)
    drop = set(SHAPE) & {"hidden_size", "num_key_value_heads"} if kind == "GPT2" else set()
    sizes = {name: value for name, value in SHAPE.items() if name not in drop}
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **KINDS.get(kind, {}), **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(directory)
    return model


def load(directory: Path) -> FallbackModel:
    config = read_config(directory)
    assert config.is_foreign
    return load_fallback(directory, config, torch.float32, torch.device("cpu"))


class Feed:
    """Two sequences in scattered blocks."""

    def __init__(self, model: FallbackModel) -> None:
        self.model = model
        self.kv = torch.full(model.config.kv_shape(40), float("nan"))
        self.tables = [list(range(0, 40, 2)), list(range(1, 40, 2))]
        self.lengths = [0, 0]

    def step(self, chunks: dict[int, list[int]]) -> Tensor:
        """Logits of the last token of each sequence's chunk."""
        tokens, positions, slots, starts = [], [], [], [0]
        for sequence, chunk in chunks.items():
            for token in chunk:
                position = self.lengths[sequence]
                tokens.append(token)
                positions.append(position)
                slots.append(self.tables[sequence][position // 16] * 16 + position % 16)
                self.lengths[sequence] += 1
            starts.append(len(tokens))
        batch = BatchInput(
            token_ids=torch.tensor(tokens),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            block_tables=torch.tensor([self.tables[s] for s in chunks], dtype=torch.int32),
            query_start=torch.tensor(starts, dtype=torch.int32),
            context_len=torch.tensor([self.lengths[s] for s in chunks], dtype=torch.int32),
            logit_rows=torch.tensor([s - 1 for s in starts[1:]]),
        )
        return self.model.forward(batch, self.kv)


def prompt_of(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, 320, (length,), generator=generator).tolist()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_greedy_tokens_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    reference = saved(kind, tmp_path)
    feed, prompts, out = Feed(load(tmp_path)), {0: prompt_of(90), 1: prompt_of(33)}, {0: [], 1: []}
    feed.step({0: prompts[0][:50]})
    logits = feed.step({0: prompts[0][50:], 1: prompts[1]})
    for _ in range(12):
        tokens = logits.argmax(-1).tolist()
        for sequence, token in enumerate(tokens):
            out[sequence].append(token)
        logits = feed.step({sequence: [token] for sequence, token in enumerate(tokens)})
    for sequence, prompt in prompts.items():
        assert out[sequence] == greedy_answer(reference, prompt, 12)


def test_an_architecture_that_the_engine_knows_is_its_own(tmp_path: Path) -> None:
    saved("Qwen3", tmp_path, head_dim=16)
    assert not read_config(tmp_path).is_foreign


def test_layers_are_told_of_and_no_logits_may_be_wanted(tmp_path: Path) -> None:
    saved("Olmo2", tmp_path)
    model, finished = load(tmp_path), []
    rows = torch.arange(5)
    batch = BatchInput(
        token_ids=rows + 9,
        positions=rows,
        slots=rows,
        block_tables=torch.tensor([[0]], dtype=torch.int32),
        query_start=torch.tensor([0, 5], dtype=torch.int32),
        context_len=torch.tensor([5], dtype=torch.int32),
        logit_rows=torch.tensor([], dtype=torch.int64),
    )
    logits = model.forward(batch, torch.zeros(model.config.kv_shape(1)), finished.append)
    assert logits.shape == (0, 320) and finished == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("Gemma2", {"head_dim": 16, "layer_types": LAYERS}, "its attention has a softcap"),
        ("Bloom", {"n_head": 4}, "is not one of .*, and not one that transformers serves"),
        ("Mamba", {"state_size": 8}, "is not one of .*, and not one that transformers serves"),
    ],
)
def test_attention_that_a_paged_cache_does_not_give_is_refused_by_name(
    kind: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(kind, tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["NoSuchForCausalLM"]}, "not one that transformers serves"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised weights of Olmo2ForCausalLM"),
        ({"layer_types": ["linear_attention"] * 3}, "not served: linear_attention"),
        ({"layer_types": ["full_attention"]}, "transformers cannot read it"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rotary encoding dynamic, which depends on lengths",
        ),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is missing or no positive integer"),
    ],
)
def test_a_config_that_is_not_served_is_named(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = transformers.Olmo2Config(**SHAPE, architectures=["Olmo2ForCausalLM"])
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ModelError, match=message):
        read_config(tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    saved("Olmo2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="transformers cannot load it"):
        load(tmp_path)
