"""What guesses for a model and has weights of its own: a small model, or a head on its states."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from engine.config import ModelConfig
from engine.eagle_config import NUM_STATES, EagleConfig
from engine.errors import ModelError
from engine.fallback.model import FallbackModel
from engine.forward import ForwardModel
from engine.kv_cache import allocate_kv, kv_layout
from engine.models import Model
from engine.models.taps import Taps
from engine.options import EngineConfig
from engine.speculation.draft_model import DraftModel
from engine.speculation.drafter import Drafter
from engine.speculation.eagle import EagleDrafter
from engine.speculation.eagle_weights import has_table, load_eagle
from engine.weights import load


@dataclass(frozen=True, slots=True)
class DraftMemory:
    """Bytes beside the model's: of the weights, of each KV block, of each token of a step."""

    weights_bytes: int
    block_bytes: int
    token_bytes: int = 0


class Draft(Protocol):
    """One of them, its weights not yet read."""

    def memory(self, dtype: torch.dtype) -> DraftMemory: ...

    def check_context(self, max_model_len: int) -> None:
        """Raises ModelError when it cannot follow the longest sequence that is served."""

    def tapped(self, model: ForwardModel) -> ForwardModel:
        """The model, loaded, with what this one reads of it."""

    def drafter(self, model: ForwardModel, options: EngineConfig) -> Drafter:
        """For a model that was tapped; its cache has the engine's blocks. Raises ModelError."""


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A directory with a model that has the tokens of the one that it drafts for."""

    directory: Path
    config: ModelConfig

    def memory(self, dtype: torch.dtype) -> DraftMemory:
        block_bytes = kv_layout(self.config, dtype, num_blocks=1).block_bytes
        return DraftMemory(self.config.num_parameters * dtype.itemsize, block_bytes)

    def check_context(self, max_model_len: int) -> None:
        longest = self.config.max_position_embeddings
        if longest < max_model_len:
            reason = f"a draft model of {longest} tokens of context; {max_model_len} are served"
            raise ModelError(self.directory, reason)

    def tapped(self, model: ForwardModel) -> ForwardModel:
        return model

    def drafter(self, model: ForwardModel, options: EngineConfig) -> Drafter:
        """In the dtype of the model."""
        assert isinstance(model, Model | FallbackModel), "a modelled worker guesses nothing"
        dtype, device = model.dtype, model.device
        shape = self.config.with_context(options.max_model_len)
        small = load(self.directory, shape, dtype, device)
        layout = kv_layout(shape, dtype, options.num_blocks, options.block_size)
        kv = allocate_kv(layout, device)
        return DraftModel(small, kv, model.config.vocab_size, options.max_batch_tokens)


@dataclass(frozen=True, slots=True)
class Head:
    """A directory with an EAGLE-3 head. It follows contexts of any length: of those beyond its
    training the acceptance says what its guesses are worth."""

    directory: Path
    config: EagleConfig

    def memory(self, dtype: torch.dtype) -> DraftMemory:
        layer, size = self.config.layer, dtype.itemsize
        table = layer.vocab_size * layer.hidden_size if has_table(self.directory) else 0
        states = NUM_STATES * self.config.target_hidden_size
        return DraftMemory(
            weights_bytes=(self.config.num_parameters + table) * size,
            block_bytes=kv_layout(layer, dtype, num_blocks=1).block_bytes,
            token_bytes=(2 * states + 8 * layer.hidden_size + 2 * layer.q_size) * size,
        )

    def check_context(self, max_model_len: int) -> None: ...

    def tapped(self, model: ForwardModel) -> ForwardModel:
        assert isinstance(model, Model), "the head was found to fit"
        return replace(model, taps=Taps(self.config.layers_of(model.config)))

    def drafter(self, model: ForwardModel, options: EngineConfig) -> Drafter:
        assert isinstance(model, Model) and model.taps is not None, "the model is tapped"
        head = load_eagle(self.directory, self.config, model, options.max_model_len)
        layout = kv_layout(self.config.layer, model.dtype, options.num_blocks, options.block_size)
        kv = allocate_kv(layout, model.device)
        return EagleDrafter(head, model.taps, kv, model.config.vocab_size)
