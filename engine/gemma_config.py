"""What Gemma 3 has beside the others: two rotary encodings, its query scale, its layer pattern."""

from dataclasses import dataclass

from engine.errors import ModelError
from engine.json_fields import JsonFields
from engine.rope_config import RopeConfig, read_rope

GLOBAL_THETA, LOCAL_THETA = 1_000_000.0, 10_000.0
ACTIVATION = "gelu_pytorch_tanh"


@dataclass(frozen=True, slots=True)
class GemmaConfig:
    """Gemma 3 (arXiv 2503.19786, section 2).

    Norms multiply by one plus their weight, and also follow the attention and the feed-forward;
    embeddings are multiplied by the root of the hidden size; the gate is a GELU. `local_rope` is
    for the layers with a window.
    """

    local_rope: RopeConfig
    query_scale: float  # queries are divided by its root instead of the head size's


def read_gemma(config: JsonFields, max_positions: int) -> GemmaConfig:
    """Raises ModelError for what the engine cannot compute."""
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if name in config:
            raise ModelError(config.path, f"{name} is not supported")
    if config.flag("use_bidirectional_attention", False):
        raise ModelError(config.path, "use_bidirectional_attention is not supported")
    activation = config.text("hidden_activation", ACTIVATION)
    if activation != ACTIVATION:
        raise ModelError(config.path, f"hidden_activation {activation!r} is not {ACTIVATION!r}")
    return GemmaConfig(
        local_rope=_rope(config, "sliding_attention", max_positions),
        query_scale=float(config.integer("query_pre_attn_scalar", 256)),
    )


def global_rope(config: JsonFields, max_positions: int) -> RopeConfig:
    """The rotary encoding of the layers that see the whole context."""
    return _rope(config, "full_attention", max_positions)


def _rope(config: JsonFields, kind: str, max_positions: int) -> RopeConfig:
    """From `rope_parameters` by kind of layer, else from the fields that Gemma 3 came with."""
    by_kind = config.nested("rope_parameters").nested(kind)
    if kind == "full_attention":
        values = {"rope_theta": config.number("rope_theta", GLOBAL_THETA)}
        fields = by_kind if by_kind.values else config.nested("rope_scaling")
    else:
        values = {"rope_theta": config.number("rope_local_base_freq", LOCAL_THETA)}
        fields = by_kind
    return read_rope(
        JsonFields(config.path, {**values, "rope_scaling": fields.values}), max_positions
    )
