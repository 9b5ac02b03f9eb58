"""A cache in fp8: the scaled model is the same model, and its answers stay near the plain one's."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from engine.kernels import BatchInput
from engine.kernels.fp8_linear import FP8, FP8_LARGEST
from engine.kernels.reference import narrow
from engine.kv_scaling import scale_for
from engine.models import Model, ModelConfig
from engine.weights import load

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
KINDS = ("Llama", "Qwen2", "Qwen3", "Phi3", "Gemma3Text")


@pytest.fixture(scope="module", params=KINDS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model; keys far beyond fp8's range in one head, values far below it in another."""
    torch.manual_seed(5)
    kind = request.param
    sizes = {"head_dim": 32} if kind in ("Qwen3", "Gemma3Text") else {}
    config = getattr(transformers, f"{kind}Config")(**SHAPE, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for layer in model.model.layers:
            attention = layer.self_attn
            if kind == "Phi3":
                attention.qkv_proj.weight[128 + 32 : 128 + 64] *= 0.01
                continue
            attention.v_proj.weight[:32] *= 1e-4
            attention.o_proj.weight[:, :64] *= 1e4
            if kind in ("Llama", "Qwen2"):
                attention.k_proj.weight[32:] *= 1e4
                attention.q_proj.weight[64:] *= 1e-4
    path = tmp_path_factory.mktemp(kind)
    model.save_pretrained(path)
    assert json.loads((path / "config.json").read_text())
    return path


def logits_of(model: Model, kv_dtype: torch.dtype, num_tokens: int = 96) -> torch.Tensor:
    """A prompt in two chunks, so that the second reads what the first has stored."""
    tokens = torch.randint(3, 320, (num_tokens,), generator=torch.Generator().manual_seed(1))
    kv = torch.zeros(model.config.kv_shape(8), dtype=kv_dtype)
    found = []
    for start, end in ((0, 40), (40, num_tokens)):
        rows = torch.arange(end - start)
        batch = BatchInput(
            token_ids=tokens[start:end],
            positions=torch.arange(start, end),
            slots=torch.arange(start, end),
            block_tables=torch.arange(8, dtype=torch.int32).unsqueeze(0),
            query_start=torch.tensor([0, end - start], dtype=torch.int32),
            context_len=torch.tensor([end], dtype=torch.int32),
            logit_rows=rows,
        )
        found.append(model.forward(batch, kv))
    assert not kv.float().isnan().any()
    return torch.cat(found)


def test_scaled_heads_are_the_same_model(directory: Path) -> None:
    config = ModelConfig.from_directory(directory)
    plain = logits_of(load(directory, config, torch.float32), torch.float32)
    scaled = load(directory, config, torch.float32, fp8_kv=True)
    assert torch.allclose(logits_of(scaled, torch.float32), plain, rtol=1e-4, atol=1e-4)


def test_logits_over_an_fp8_cache_are_near_those_over_a_plain_one(directory: Path) -> None:
    config = ModelConfig.from_directory(directory)
    plain = logits_of(load(directory, config, torch.bfloat16), torch.bfloat16).double()
    exact = logits_of(load(directory, config, torch.float32), torch.float32).double()
    narrow = load(directory, config, torch.bfloat16, fp8_kv=True)
    found = logits_of(narrow, FP8).double()
    spread = exact.std()
    error, bf16_error = (((x - exact) / spread).square().mean().sqrt() for x in (found, plain))
    assert bf16_error < 0.03 and error < 0.1
    agreed = (found.argmax(-1) == exact.argmax(-1)).double().mean()
    assert agreed > 0.85


def test_what_fp8_cannot_hold_becomes_its_largest_value() -> None:
    found = narrow(torch.tensor([1e6, -1e6, 448.0, 0.3]), FP8).float()
    assert found.tolist() == [448.0, -448.0, 448.0, pytest.approx(0.3, rel=0.07)]


def test_a_scale_is_the_smallest_power_of_two_that_suffices() -> None:
    reach = torch.tensor([1e-9, 0.5, 447.0, 448.0, 449.0, 1e6])
    scales = scale_for(reach)
    assert (reach / scales <= FP8_LARGEST).all() and (reach / scales > FP8_LARGEST / 2).all()
    assert torch.equal(scales.log2(), scales.log2().round())
