"""Reads an EAGLE-3 head's tensors under the names that its authors and SpecForge give them."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.eagle_config import EagleConfig
from engine.errors import ModelError
from engine.models import Model
from engine.models.eagle import EagleHead, build_eagle
from engine.weights import Checkpoint

TABLE = "embed_tokens.weight"
OWN_LAYER, INDEXED_LAYER = "midlayer", "layers.0"  # the second is speculators'
_TOP = frozenset((TABLE, "fc.weight", "norm.weight", "lm_head.weight", "d2t", "t2d"))
_NORMS = ("hidden_norm", "input_layernorm", "post_attention_layernorm")
_PROJECTIONS = tuple(f"self_attn.{part}_proj" for part in "qkvo")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def load_eagle(
    directory: Path,
    config: EagleConfig,
    model: Model,
    max_positions: int,
    kernels: str = "auto",
) -> EagleHead:
    """The head in the model's dtype and on its device, for contexts of so many tokens.

    Raises ModelError, naming file and tensor, for what is missing, of another shape or of a
    variant that is not served.
    """
    config.check_fits(model.config, directory)
    checkpoint = Checkpoint.open(directory)
    is_own = any(name.startswith(f"{OWN_LAYER}.") for name in checkpoint.file_of)
    prefix = OWN_LAYER if is_own else INDEXED_LAYER
    _check_names(checkpoint, prefix)
    layer = replace(config.layer, max_position_embeddings=max_positions)
    return build_eagle(
        replace(config, layer=layer),
        checkpoint,
        prefix,
        _table(checkpoint, config, model),
        _targets(checkpoint, config),
        model.dtype,
        model.device,
        kernels,
    )


def has_table(directory: Path) -> bool:
    """Whether the head has a token table of its own. Raises ModelError."""
    return TABLE in Checkpoint.open(directory)


def _check_names(checkpoint: Checkpoint, prefix: str) -> None:
    projections = (*_PROJECTIONS, *_MLP)
    layer = {f"{part}.weight" for part in (*_NORMS, *projections)}
    layer |= {f"{part}.bias" for part in projections}
    known = _TOP | {f"{prefix}.{name}" for name in layer}
    for name in sorted(checkpoint.file_of):
        if name not in known:
            reason = f"tensor {name!r} is of a variant of EAGLE-3 that is not served"
            raise ModelError(checkpoint.file_of[name], reason)


def _table(checkpoint: Checkpoint, config: EagleConfig, model: Model) -> Tensor:
    """The head's own, or the model's."""
    shape = (config.layer.vocab_size, config.layer.hidden_size)
    if TABLE in checkpoint:
        return checkpoint.tensor(TABLE, shape)
    table = model.embedding.weight
    if tuple(table.shape) != shape:
        found = f"the model's has shape {tuple(table.shape)}, not {shape}"
        raise ModelError(checkpoint.index, f"tensor {TABLE!r} is missing, and {found}")
    return table


def _targets(checkpoint: Checkpoint, config: EagleConfig) -> Tensor | None:
    """d2t holds what is added to a token's id in the head to make it the model's."""
    num_own, vocab = config.draft_vocab_size, config.layer.vocab_size
    if "d2t" not in checkpoint:
        if num_own == vocab:
            return None
        raise ModelError(checkpoint.index, f"tensor 'd2t' is missing for {num_own} of {vocab} ids")
    steps, path = checkpoint.stored("d2t"), checkpoint.file_of["d2t"]
    if tuple(steps.shape) != (num_own,) or steps.is_floating_point():
        found = f"{tuple(steps.shape)} of {steps.dtype}"
        raise ModelError(path, f"tensor 'd2t' is {found}, not ({num_own},) of integers")
    targets = torch.arange(num_own) + steps.long()
    if (
        int(targets.min()) < 0
        or int(targets.max()) >= vocab
        or len(set(targets.tolist())) < num_own
    ):
        raise ModelError(path, f"tensor 'd2t' names a token twice, or one beyond the {vocab}")
    return targets
