"""Two pools of a model with a cache of latents, and of one whose layers are transformers'."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from leg_runs import greedy, handed_over

from engine.config import ModelConfig
from engine.errors import ModelError
from wire.kv import KVLayout
from wire.messages import Role
from worker.build import build
from worker.config import WorkerConfig

VOCAB, RANK, ROPE_DIM, LAYERS, NUM_TOKENS = 512, 32, 8, 3, 24
PROMPT = tuple(range(40, 139))


def saved(path: Path, config: type[transformers.PretrainedConfig], **fields: Any) -> Path:
    """A random model of three layers."""
    torch.manual_seed(9)
    made = config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.2,
        **fields,
    )
    transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepSeek-V3."""
    return saved(
        tmp_path_factory.mktemp("deepseek"),
        transformers.DeepseekV3Config,
        num_key_value_heads=4,
        kv_lora_rank=RANK,
        q_lora_rank=24,
        qk_nope_head_dim=16,
        qk_rope_head_dim=ROPE_DIM,
        v_head_dim=12,
        n_routed_experts=8,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=3,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        bos_token_id=1,
        eos_token_id=2,
    )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the engine has no layers for."""
    path = tmp_path_factory.mktemp("olmo2")
    return saved(path, transformers.Olmo2Config, num_key_value_heads=2, pad_token_id=0)


@pytest.fixture
def config(directory: Path) -> WorkerConfig:
    return WorkerConfig(str(directory), kv_memory="2MiB", dtype="float32", threads=1)


def reference_tokens(directory: Path) -> list[int]:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    out = model.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        max_new_tokens=NUM_TOKENS,
        min_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
    )
    return out[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("transport", ["", "tcp"])
def test_latents_that_travel_give_the_answer_of_transformers(
    directory: Path, config: WorkerConfig, transport: str
) -> None:
    config = replace(config, transport=transport) if transport else config
    with build(replace(config, role=Role.PREFILL)) as prefill, build(config) as decode:
        answer, moved = handed_over(prefill, decode, greedy(PROMPT, NUM_TOKENS))
    # Whole blocks of 16 tokens: one vector of rank + rope_dim numbers a token and layer.
    assert moved.num_bytes == 112 * LAYERS * (RANK + ROPE_DIM) * 4
    assert answer == reference_tokens(directory)


def test_a_model_of_transformers_layers_answers_from_two_pools(
    foreign: Path, config: WorkerConfig
) -> None:
    config = replace(config, model=str(foreign))
    with build(replace(config, role=Role.PREFILL)) as prefill, build(config) as decode:
        answer, _ = handed_over(prefill, decode, greedy(PROMPT, NUM_TOKENS))
    assert answer == reference_tokens(foreign)


@pytest.mark.parametrize("settings", [{"kv_dtype": "fp8"}, {"tensor_parallel": 2}])
def test_what_transformers_layers_cannot_do_is_refused(
    foreign: Path, config: WorkerConfig, settings: dict[str, object]
) -> None:
    with (
        pytest.raises(ValueError, match="is not for Olmo2ForCausalLM, whose layers are transf"),
        build(replace(config, model=str(foreign), **settings)),
    ):
        pass


def test_the_layout_that_a_worker_announces_is_of_latents(config: WorkerConfig) -> None:
    with build(config) as parts:
        layout = KVLayout.from_signature(parts.fingerprint.kv_layout, num_blocks=1)
        assert layout.is_latent and layout.num_parts == layout.num_model_heads == 1
        assert layout.head_dim == RANK + ROPE_DIM
        read = ModelConfig.from_directory(config.model)
        assert layout.block_bytes == 16 * read.kv_bytes_per_token(torch.float32)
        assert parts.core.report().num_blocks == (2 << 20) // layout.block_bytes - 1


def test_a_cache_of_latents_in_fp8_is_refused(config: WorkerConfig) -> None:
    with (
        pytest.raises(ModelError, match="a latent cache cannot be kept in fp8"),
        build(replace(config, kv_dtype="fp8")),
    ):
        pass
