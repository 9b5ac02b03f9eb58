"""The architectures that are served, and what each fixes without saying it in config.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.errors import ModelError
from engine.json_fields import JsonFields
from engine.moe_config import (
    MoeConfig,
    deepseek_v2_experts,
    deepseek_v3_experts,
    mixtral_experts,
    qwen3_experts,
)


@dataclass(frozen=True, slots=True)
class Family:
    """What an architecture fixes without saying it in config.json."""

    windows: Callable[[JsonFields, int], tuple[int | None, ...]]
    qk_norm: bool = False
    always_qkv_bias: bool = False
    reads_attention_bias: bool = False
    reads_mlp_bias: bool = False
    partial_rotary: bool = False
    fused_projections: bool = False  # qkv_proj and gate_up_proj are one tensor each
    is_gemma: bool = False
    is_latent: bool = False  # multi-head latent attention
    experts: Callable[[JsonFields, int], MoeConfig] | None = None


def _no_window(_: JsonFields, num_layers: int) -> tuple[int | None, ...]:
    return (None,) * num_layers


def _mistral_windows(config: JsonFields, num_layers: int) -> tuple[int | None, ...]:
    """Every layer alike; transformers takes an absent field as 4,096 and a null as no window."""
    present = "sliding_window" in config
    absent = "sliding_window" not in config.values
    return (config.integer("sliding_window", 4096) if present or absent else None,) * num_layers


def _stated_window(config: JsonFields, num_layers: int) -> tuple[int | None, ...]:
    """Every layer alike; an absent field is no window."""
    window = config.integer("sliding_window") if "sliding_window" in config else None
    return (window,) * num_layers


def _qwen3_moe_windows(config: JsonFields, num_layers: int) -> tuple[int | None, ...]:
    """Every layer alike, where `use_sliding_window` says so."""
    used = config.flag("use_sliding_window", False)
    return (config.integer("sliding_window", 4096) if used else None,) * num_layers


def _qwen_windows(config: JsonFields, num_layers: int) -> tuple[int | None, ...]:
    """Windows on the layers that `layer_types` names, else from `max_window_layers` on."""
    kinds = config.texts("layer_types")
    window = (
        config.integer("sliding_window", 4096) if config.flag("use_sliding_window", False) else None
    )
    if not kinds:
        first = config.values.get("max_window_layers", 28)
        if isinstance(first, bool) or not isinstance(first, int):
            raise ModelError(
                config.path, f"field 'max_window_layers' must be an integer, is {first!r}"
            )
        return tuple(window if layer >= first else None for layer in range(num_layers))
    return _windows_by_kind(config, num_layers, window)


def _gemma_windows(config: JsonFields, num_layers: int) -> tuple[int | None, ...]:
    """Windows on the layers that `layer_types` names, else on all but every sixth."""
    window = config.integer("sliding_window", 4096)
    if not config.texts("layer_types"):
        every = config.integer("sliding_window_pattern", 6)
        return tuple(window if (layer + 1) % every else None for layer in range(num_layers))
    return _windows_by_kind(config, num_layers, window)


def _windows_by_kind(
    config: JsonFields, num_layers: int, window: int | None
) -> tuple[int | None, ...]:
    kinds = config.texts("layer_types")
    if len(kinds) != num_layers:
        raise ModelError(
            config.path, f"field 'layer_types' names {len(kinds)} of {num_layers} layers"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(_no_window, reads_attention_bias=True, reads_mlp_bias=True),
    "MistralForCausalLM": Family(_mistral_windows),
    "Qwen2ForCausalLM": Family(_qwen_windows, always_qkv_bias=True),
    "Qwen3ForCausalLM": Family(_qwen_windows, qk_norm=True, reads_attention_bias=True),
    "Qwen3MoeForCausalLM": Family(
        _qwen3_moe_windows, qk_norm=True, reads_attention_bias=True, experts=qwen3_experts
    ),
    "MixtralForCausalLM": Family(_stated_window, experts=mixtral_experts),
    "Gemma3ForCausalLM": Family(
        _gemma_windows, qk_norm=True, reads_attention_bias=True, is_gemma=True
    ),
    "Phi3ForCausalLM": Family(_stated_window, partial_rotary=True, fused_projections=True),
    "DeepseekV2ForCausalLM": Family(
        _no_window, reads_attention_bias=True, is_latent=True, experts=deepseek_v2_experts
    ),
    "DeepseekV3ForCausalLM": Family(
        _no_window, reads_attention_bias=True, is_latent=True, experts=deepseek_v3_experts
    ),
}
