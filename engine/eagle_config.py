"""What config.json says of an EAGLE-3 head: one layer that guesses from a larger model's states.

Li et al., EAGLE-3 (arXiv 2503.01840), in the forms that SafeAILab/EAGLE, SpecForge and vLLM's
speculators write.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.config import ModelConfig, read_model
from engine.errors import ModelError
from engine.json_fields import JsonFields

NAMES = ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel")
NUM_STATES = 3  # low, middle and high
_PLAIN = "LlamaForCausalLM"
_LAYER_IDS = "eagle_aux_hidden_state_layer_ids"
# What other variants say of themselves, and what the layer below is.
_FIXED: Mapping[str, bool] = {
    "use_aux_hidden_state": True,
    "use_last_layernorm": True,
    "use_input_layernorm_in_first_layer": True,
    "use_mtp_layernorm": False,
    "parallel_drafting": False,
    "norm_before_fc": False,
    "fc_norm": False,
    "norm_output": False,
}


@dataclass(frozen=True, slots=True)
class EagleConfig:
    """The shape of a head.

    layer: a model of one layer with the large model's vocabulary. state_layers: the head reads
    the large model's residual stream in front of these; None: where the paper's authors read it.
    normed_residual: the layer's residual is the normalised state.
    """

    layer: ModelConfig
    draft_vocab_size: int
    target_hidden_size: int
    state_layers: tuple[int, ...] | None
    normed_residual: bool

    def layers_of(self, model: ModelConfig) -> tuple[int, ...]:
        """In front of which layers of that model the head reads."""
        num_layers = model.num_layers
        return self.state_layers or (2, num_layers // 2, num_layers - 3)

    def check_fits(self, model: ModelConfig, path: Path) -> None:
        """Raises ModelError, blaming `path`, for a head of another model than this."""
        if model.is_foreign:
            theirs = f"{model.architecture}, whose layers are transformers', gives none"
            raise ModelError(path, f"an EAGLE-3 head reads a model's inner states; {theirs}")
        for what, own, other in (
            ("hidden_size", self.target_hidden_size, model.hidden_size),
            ("vocab_size", self.layer.vocab_size, model.vocab_size),
        ):
            if own != other:
                raise ModelError(path, f"a head for a model of {what} {own}; this one has {other}")
        layers = self.layers_of(model)
        if not all(0 <= layer < model.num_layers for layer in layers):
            reason = f"a head for the states in front of layers {layers}"
            raise ModelError(path, f"{reason}; the model has {model.num_layers}")

    @property
    def num_parameters(self) -> int:
        """Without norms and the token table, which may be the large model's."""
        layer, hidden = self.layer, self.layer.hidden_size
        attention = 2 * hidden * (layer.q_size + 2 * layer.kv_size) + layer.q_size * hidden
        fusion = NUM_STATES * self.target_hidden_size
        return attention + hidden * (3 * layer.intermediate_size + fusion + self.draft_vocab_size)


def read_eagle(directory: Path) -> EagleConfig | None:
    """The head in that directory; None for a model of another kind.

    Raises ModelError for a head of a variant that is not served, and for a directory without a
    readable config.json.
    """
    fields = JsonFields.from_file(directory / "config.json")
    named = fields.texts("architectures")
    is_named = any(name in NAMES for name in named)
    if not is_named and not (_PLAIN in named and "draft_vocab_size" in fields):
        return None
    inner = fields.nested("transformer_layer_config").values
    values = {**fields.values, **inner, "architectures": [_PLAIN]}
    return _read(JsonFields(fields.path, values))


def _read(fields: JsonFields) -> EagleConfig:
    options = fields.nested("eagle_config")
    for source in (fields, options):
        for name, served in _FIXED.items():
            if source.flag(name, served) is not served:
                raise ModelError(fields.path, f"an EAGLE-3 head with {name} is not served")
    layer = read_model(fields, JsonFields(fields.path, {}))
    if layer.num_layers != 1:
        raise ModelError(fields.path, f"an EAGLE-3 head has one layer, not {layer.num_layers}")
    if layer.quantisation is not None:
        raise ModelError(fields.path, "quantised EAGLE-3 heads are not served")
    draft_vocab = fields.integer("draft_vocab_size", layer.vocab_size)
    if draft_vocab > layer.vocab_size:
        reason = f"draft_vocab_size {draft_vocab} is beyond vocab_size {layer.vocab_size}"
        raise ModelError(fields.path, reason)
    return EagleConfig(
        layer=layer,
        draft_vocab_size=draft_vocab,
        target_hidden_size=fields.integer("target_hidden_size", layer.hidden_size),
        state_layers=_state_layers(fields, options),
        normed_residual=fields.flag("norm_before_residual", False),
    )


def _state_layers(fields: JsonFields, options: JsonFields) -> tuple[int, ...] | None:
    """Under `eagle_config` an id is of the layer that the state comes out of (SpecForge); at the
    top it counts the layers before the state (speculators)."""
    inner, outer = options.indices(_LAYER_IDS), fields.indices(_LAYER_IDS)
    layers = tuple(layer + 1 for layer in inner) or outer
    if layers and len(layers) != NUM_STATES:
        raise ModelError(fields.path, f"{_LAYER_IDS} names {len(layers)} layers, not {NUM_STATES}")
    return layers or None
