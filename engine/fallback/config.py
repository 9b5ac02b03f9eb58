"""The shape of a model whose layers are transformers', read with its configuration classes."""

import importlib.util
from pathlib import Path
from typing import Any

from engine.config import ModelConfig, read_generation, stored_dtype
from engine.errors import ModelError, UnknownArchitectureError
from engine.json_fields import JsonFields
from engine.rope_config import RopeConfig

LAYER_KINDS = {"full_attention", "sliding_attention"}
MOVING_ROPES = {"dynamic", "longrope"}  # keys in the cache would change as sequences grow


def read_config(path: Path | str) -> ModelConfig:
    """As `ModelConfig.from_directory`; an architecture that the engine does not know is read with
    transformers, where that is installed and has it with exchangeable attention.

    Raises ModelError.
    """
    try:
        return ModelConfig.from_directory(path)
    except UnknownArchitectureError as error:
        if importlib.util.find_spec("transformers") is None:
            reason = f"{error.reason}; others need `pip install 'baton-serve[transformers]'`"
            raise ModelError(error.path, reason) from error
        return _read(Path(path), error)


def model_class(architecture: str) -> Any:
    """transformers' class of that name; None where it is no causal model with exchangeable
    attention."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return None
    found = getattr(transformers, architecture, None)
    return found if getattr(found, "_supports_attention_backend", False) else None


def _read(directory: Path, unknown: UnknownArchitectureError) -> ModelConfig:
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    fields = JsonFields.from_file(directory / "config.json")
    architecture = next(iter(fields.texts("architectures")), "")
    if model_class(architecture) is None:
        reason = f"{unknown.reason}, and not one that transformers serves with other attention"
        raise ModelError(unknown.path, reason)
    if "quantization_config" in fields:
        raise ModelError(unknown.path, f"quantised weights of {architecture} are not supported")
    try:
        theirs = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    except (ValueError, OSError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(unknown.path, f"transformers cannot read it: {error}") from error
    kinds = set(getattr(theirs, "layer_types", None) or ()) - LAYER_KINDS
    if kinds:
        reason = f"{architecture} has layers that are not served: {', '.join(sorted(kinds))}"
        raise ModelError(unknown.path, reason)
    moving = MOVING_ROPES & _rope_kinds(theirs)
    if moving:
        reason = f"{architecture} has rotary encoding {', '.join(moving)}, which depends on lengths"
        raise ModelError(unknown.path, reason)
    return _converted(fields, architecture, theirs)


def _rope_kinds(theirs: Any) -> set[object]:
    """Of all layers; a configuration may have an encoding for each kind of layer."""
    found = getattr(theirs, "rope_parameters", None) or {}
    each = [found, *(value for value in found.values() if isinstance(value, dict))]
    return {parameters.get("rope_type") for parameters in each}


def _converted(fields: JsonFields, architecture: str, theirs: Any) -> ModelConfig:
    """What the engine has to know: the cache's shape and the vocabulary. The rest is theirs."""

    def size(*names: str, default: int = 0) -> int:
        for name in names:
            value = getattr(theirs, name, None)
            if isinstance(value, int) and value > 0:
                return value
        if default:
            return default
        raise ModelError(fields.path, f"field {names[0]!r} is missing or no positive integer")

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    layers = size("num_hidden_layers")
    generation = read_generation(fields.path.parent)
    bos = fields.token_ids("bos_token_id") or generation.token_ids("bos_token_id")
    return ModelConfig(
        architecture=architecture,
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=size("num_key_value_heads", default=heads),
        head_dim=size("head_dim", default=max(hidden // heads, 1)),
        intermediate_size=size("intermediate_size", "ffn_dim", "n_inner", default=4 * hidden),
        vocab_size=size("vocab_size"),
        rope=RopeConfig(theta=1.0),
        rms_norm_eps=0.0,
        tie_word_embeddings=bool(getattr(theirs, "tie_word_embeddings", False)),
        qk_norm=False,
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        layer_windows=(None,) * layers,
        max_position_embeddings=size("max_position_embeddings"),
        eos_token_ids=generation.token_ids("eos_token_id") or fields.token_ids("eos_token_id"),
        bos_token_id=bos[0] if bos else None,
        dtype=stored_dtype(fields),
        is_foreign=True,
    )
