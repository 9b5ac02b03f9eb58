"""Model directories: what is read from them, and what is said about broken ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from engine.errors import ModelError
from engine.layers.rope import rope_table
from engine.models import ModelConfig
from engine.rope_config import RopeConfig
from engine.weights import load, random_model

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}

QWEN_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 16,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 24,
}


LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}
DEEPSEEK_V2 = {**LATENT, "architectures": ["DeepseekV2ForCausalLM"]}
DEEPSEEK_V3 = {**LATENT, "architectures": ["DeepseekV3ForCausalLM"]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Qwen3 in one file, and the same in several."""
    torch.manual_seed(1)
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE, head_dim=16))
    single, sharded = tmp_path_factory.mktemp("single"), tmp_path_factory.mktemp("sharded")
    model.save_pretrained(single)
    model.save_pretrained(sharded, max_shard_size="20KB")
    return {"single": single, "sharded": sharded}


@pytest.fixture
def directory(saved: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy that a test may break."""
    source = saved[getattr(request, "param", "single")]
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(directory: Path, name: str = "config.json", **values: Any) -> None:
    fields = json.loads((directory / name).read_text())
    fields.update(values)
    (directory / name).write_text(json.dumps({k: v for k, v in fields.items() if v != "drop"}))


def read(directory: Path) -> ModelConfig:
    return ModelConfig.from_directory(directory)


def load_model(directory: Path) -> None:
    load(directory, read(directory), torch.float32)


def test_one_file_and_many_hold_the_same_model(saved: dict[str, Path]) -> None:
    assert len(list(saved["sharded"].glob("*.safetensors"))) > 2
    models = [load(path, read(path), torch.float32) for path in saved.values()]
    x = torch.randn(3, SHAPE["hidden_size"])
    assert torch.equal(models[0].layers[1].mlp(x), models[1].layers[1].mlp(x))


def test_the_config_is_read(saved: dict[str, Path]) -> None:
    config = read(saved["single"])
    assert (config.architecture, config.num_layers, config.head_dim) == ("Qwen3ForCausalLM", 2, 16)
    assert config.qk_norm and not config.qkv_bias
    assert config.layer_windows == (None, None) and config.sliding_window is None
    assert config.eos_token_ids == (2,) and config.bos_token_id == 1
    assert config.dtype == torch.float32
    assert config.kv_shape(7) == (2, 7, 2, 2, 16, 16)
    assert config.kv_bytes_per_token(torch.bfloat16) == 2 * 2 * 2 * 16 * 2


def test_generation_config_tells_the_end_tokens(directory: Path) -> None:
    change(directory, "generation_config.json", eos_token_id=[5, 6])
    assert read(directory).eos_token_ids == (5, 6)
    (directory / "generation_config.json").unlink()
    assert read(directory).eos_token_ids == (2,)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(
    ("text", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)]
)
def test_either_name_of_the_dtype_is_read(
    directory: Path, name: str, text: str, dtype: torch.dtype
) -> None:
    change(directory, dtype="drop")
    change(directory, **{name: text})
    assert read(directory).dtype == dtype


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
PHI3 = {"architectures": ["Phi3ForCausalLM"], "rope_parameters": None}

GEMMA: dict[str, Any] = {"architectures": ["Gemma3ForCausalLM"], "layer_types": None}


@pytest.mark.parametrize(
    ("fields", "rope"),
    [
        ({"rope_theta": 5e5}, RopeConfig(5e5)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, RopeConfig(1e6)),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, RopeConfig(5e5)),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            RopeConfig(5e5, "linear", 2.0, original_max_positions=128),
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": LLAMA3},
            RopeConfig(5e5, "llama3", 8.0, original_max_positions=64),
        ),
        (
            {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
            RopeConfig(5e5, "llama3", 8.0, original_max_positions=64),
        ),
    ],
)
def test_either_style_of_rotary_encoding_is_read(
    directory: Path, fields: dict[str, Any], rope: RopeConfig
) -> None:
    change(directory, rope_parameters="drop", rope_scaling="drop", rope_theta="drop")
    change(directory, **fields)
    assert read(directory).rope == rope


@pytest.mark.parametrize("kind", ["longrope", "su"])
def test_the_served_context_chooses_the_factors_of_longrope(directory: Path, kind: str) -> None:
    scaling = {**LONGROPE, "rope_type": kind, "attention_factor": 1.0}
    change(directory, rope_parameters="drop", original_max_position_embeddings=32)
    change(directory, rope_scaling=scaling)
    config = read(directory)
    assert (config.rope.factor, config.kv_variant) == (4.0, "long")
    assert config.with_context(1000).kv_variant == "long"
    assert config.with_context(32).kv_variant == "short"
    long, short = (rope_table(config.rope, 16, length) for length in (33, 32))
    assert torch.allclose(long[:32:2], short[:16])  # the long factors are twice the short ones


def test_gemma_is_read_as_it_was_published(directory: Path) -> None:
    change(directory, **GEMMA, rope_parameters="drop", tie_word_embeddings="drop")
    change(directory, sliding_window=8, sliding_window_pattern=2, rope_theta=2e6)
    config = read(directory)
    assert config.layer_windows == (8, None) and config.tie_word_embeddings
    assert config.gemma is not None and config.gemma.local_rope == RopeConfig(10000.0)
    assert config.rope == RopeConfig(2e6)
    change(directory, rope_scaling={"rope_type": "linear", "factor": 8.0})
    assert read(directory).rope.factor == 8.0


def test_dynamic_scaling_equals_none_within_the_context(directory: Path) -> None:
    change(directory, rope_parameters="drop", rope_scaling={"type": "dynamic", "factor": 4.0})
    config = read(directory)
    assert torch.equal(rope_table(config.rope, 16, 128), rope_table(RopeConfig(10000.0), 16, 128))


@pytest.mark.parametrize(
    ("architecture", "fields", "windows"),
    [
        ("MistralForCausalLM", {"sliding_window": 32}, (32, 32)),
        ("MistralForCausalLM", {"sliding_window": None}, (None, None)),
        ("MistralForCausalLM", {"sliding_window": "drop"}, (4096, 4096)),
        ("Qwen2ForCausalLM", {"sliding_window": 32, "use_sliding_window": False}, (None, None)),
        (
            "Qwen2ForCausalLM",
            {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 1},
            (None, 32),
        ),
        (
            "Qwen3ForCausalLM",
            {
                "sliding_window": 32,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (32, None),
        ),
        ("LlamaForCausalLM", {"sliding_window": 32}, (None, None)),
    ],
)
def test_windows_follow_the_architecture(
    directory: Path, architecture: str, fields: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    change(directory, architectures=[architecture], layer_types="drop")
    change(directory, **fields)
    assert read(directory).layer_windows == windows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "architecture"),
        ({"architectures": "drop"}, "architecture"),
        ({**QWEN_MOE, "num_experts": 4}, "num_experts_per_tok 8 is more than 4 experts"),
        ({**QWEN_MOE, "moe_intermediate_size": "drop"}, "'moe_intermediate_size' is missing"),
        ({**QWEN_MOE, "num_experts": "drop"}, "'num_local_experts' is missing"),
        ({**QWEN_MOE, "mlp_only_layers": [-1]}, "'mlp_only_layers' must be a list of integers"),
        ({"hidden_size": "drop"}, "'hidden_size' is missing"),
        ({"hidden_size": -4}, "'hidden_size' must be a positive integer"),
        ({"num_hidden_layers": "two"}, "'num_hidden_layers'"),
        ({"num_attention_heads": True}, "'num_attention_heads'"),
        ({"num_key_value_heads": 3}, "cannot share 3 key-value heads"),
        ({"head_dim": 15}, "must be even"),
        ({"rms_norm_eps": "small"}, "'rms_norm_eps' must be a finite number"),
        ({"tie_word_embeddings": 1}, "'tie_word_embeddings' must be true or false"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"dtype": "int4"}, "dtype 'int4'"),
        ({"eos_token_id": "end"}, "'eos_token_id'"),
        ({"layer_types": ["full_attention"]}, "names 1 of 2 layers"),
        ({"rope_parameters": {"rope_type": "axial"}}, "rope type 'axial'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "'factor' is missing"),
        ({"rope_parameters": [1]}, "must be an object"),
        ({"partial_rotary_factor": 0.5}, "partial"),
        ({**GEMMA, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping is not supported"),
        ({**GEMMA, "final_logit_softcapping": 30.0}, "final_logit_softcapping is not supported"),
        ({**GEMMA, "use_bidirectional_attention": True}, "bidirectional"),
        ({**GEMMA, "hidden_activation": "relu"}, "hidden_activation 'relu' is not"),
        ({**PHI3, "partial_rotary_factor": 1.5}, "partial_rotary_factor 1.5 is not in"),
        ({**PHI3, "partial_rotary_factor": 0.2}, "of which 3 rotate, must be even"),
        ({**DEEPSEEK_V2, "topk_method": "best"}, "topk_method 'best' is not supported"),
        ({**DEEPSEEK_V2, "norm_topk_prob": True}, "norm_topk_prob is not supported"),
        ({**DEEPSEEK_V2, "num_experts_per_tok": 9}, "too small for num_experts_per_tok 9"),
        ({**DEEPSEEK_V2, "kv_lora_rank": "drop"}, "'kv_lora_rank' is missing"),
        ({**DEEPSEEK_V2, "first_k_dense_replace": -1}, "must be an integer from 0"),
        ({**DEEPSEEK_V3, "scoring_func": "softmax"}, "scoring_func 'softmax' is not supported"),
        ({**DEEPSEEK_V3, "n_group": 3}, "8 experts cannot form 3 groups of which 2 are kept"),
        ({**DEEPSEEK_V3, "topk_group": 5}, "cannot form 4 groups of which 5 are kept"),
        ({**DEEPSEEK_V3, "num_experts_per_tok": 5}, "too small for num_experts_per_tok 5"),
        ({**DEEPSEEK_V3, "n_group": 8}, "2 groups of 1 experts are too small"),
        ({**DEEPSEEK_V3, "moe_layer_freq": 2}, "moe_layer_freq other than 1"),
        ({**DEEPSEEK_V3, "qk_rope_head_dim": 5}, "head_dim 5, of which 5 rotate, must be even"),
        ({**DEEPSEEK_V3, "mlp_bias": True}, "mlp_bias is not supported"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "'short_factor' is missing"),
        ({"rope_parameters": {**LONGROPE, "long_factor": [1.0]}}, "needs 8 factors, has 1"),
        ({"rope_parameters": {**LONGROPE, "short_factor": [0] * 8}}, "must be a list of positive"),
    ],
)
def test_a_config_that_cannot_be_served_is_named(
    directory: Path, fields: dict[str, Any], message: str
) -> None:
    (directory / "generation_config.json").unlink()
    change(directory, **fields)
    with pytest.raises(ModelError, match=message) as raised:
        read(directory)
    assert raised.value.path == directory / "config.json"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{}", b"null"])
def test_a_config_that_is_no_json_object_is_named(directory: Path, content: bytes) -> None:
    (directory / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match="config.json.*JSON"):
        read(directory)


def test_a_sparse_model_counts_all_its_experts(directory: Path) -> None:
    dense = read(directory).num_parameters
    change(directory, **QWEN_MOE, mlp_only_layers=[0])
    experts = 16 * (3 * 24 + 1) * SHAPE["hidden_size"]
    assert read(directory).num_parameters == dense - 3 * 48 * SHAPE["hidden_size"] + experts


@pytest.mark.parametrize("query_rank", [None, 12])
def test_a_latent_model_is_counted_and_cached_as_it_is(
    directory: Path, query_rank: int | None
) -> None:
    change(directory, **DEEPSEEK_V3)
    change(directory, q_lora_rank=query_rank, head_dim="drop", dtype="float32")
    config = read(directory)
    shape = {name: value for name, value in LATENT.items() if name != "num_key_value_heads"}
    sizes = {**SHAPE, **shape, "num_key_value_heads": 4, "q_lora_rank": query_rank}
    model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**sizes))
    weights = sum(w.numel() for w in model.parameters() if w.dim() > 1)
    assert config.num_parameters == weights
    assert config.kv_shape(3) == (2, 3, 1, 1, 16, 20)
    assert config.kv_bytes_per_token(torch.bfloat16) == 2 * 20 * 2
    assert config.waits_for_device and config.latent is not None


def test_a_missing_directory_or_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a directory"):
        read(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="config.json: file is missing"):
        read(tmp_path)


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def garble(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"not a tensor file at all")


def remove(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def edit(directory: Path, edit_tensors: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit_tensors(tensors)
    save_file(tensors, path)


def drop_tensor(directory: Path) -> None:
    edit(directory, lambda tensors: tensors.pop("model.norm.weight"))


def reshape_tensor(directory: Path) -> None:
    edit(directory, lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}))


def retype_tensor(directory: Path) -> None:
    wrong = torch.ones(SHAPE["hidden_size"], dtype=torch.int8)
    edit(directory, lambda tensors: tensors.update({"model.norm.weight": wrong}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not a whole safetensors file"),
        (garble, "not a whole safetensors file"),
        (remove, "file is missing"),
        (drop_tensor, "'model.norm.weight' is missing"),
        (reshape_tensor, r"'model.norm.weight' has shape \(7,\), not \(32,\)"),
        (retype_tensor, "'model.norm.weight' has dtype torch.int8"),
    ],
)
def test_damaged_weights_are_named(
    directory: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(directory)
    with pytest.raises(ModelError, match=message) as raised:
        load_model(directory)
    assert raised.value.path == directory / "model.safetensors"


@pytest.mark.parametrize("directory", ["sharded"], indirect=True)
def test_a_missing_shard_is_named(directory: Path) -> None:
    shard = sorted(directory.glob("model-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ModelError, match="file is missing") as raised:
        load_model(directory)
    assert raised.value.path == shard


@pytest.mark.parametrize("directory", ["sharded"], indirect=True)
def test_an_index_that_lies_is_named(directory: Path) -> None:
    index = "model.safetensors.index.json"
    shards = sorted(path.name for path in directory.glob("model-*.safetensors"))
    weights = json.loads((directory / index).read_text())["weight_map"]
    held = weights["model.norm.weight"]
    other = next(name for name in shards if name != held)
    change(directory, index, weight_map={**weights, "model.norm.weight": other})
    with pytest.raises(ModelError, match="although") as raised:
        load_model(directory)
    assert raised.value.path == directory / other


def test_random_weights_follow_the_seed_alone(saved: dict[str, Path]) -> None:
    config = read(saved["single"])
    x = torch.randn(2, SHAPE["hidden_size"])
    first, second, other = (
        random_model(config, torch.float32, seed).layers[0].mlp(x) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)
