"""What guesses tokens on this worker: nothing, the text itself, or a small model."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import ModelConfig
from engine.errors import ModelError
from engine.forward import ForwardModel
from engine.kv_cache import allocate_kv, kv_layout
from engine.models import Model
from engine.options import EngineConfig
from engine.speculation.draft_model import DraftModel
from engine.speculation.drafter import Drafter
from engine.speculation.lookup import PromptLookup
from engine.speculation.speculator import Speculator
from engine.weights import load
from runtime.clock import Clock
from wire.block_hash import BLOCK_SIZE
from worker.config import WorkerConfig

KINDS = ("off", "lookup", "model")


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft model's directory, which has the tokens of the model that it drafts for."""

    directory: Path
    config: ModelConfig

    def block_bytes(self, dtype: torch.dtype) -> int:
        return kv_layout(self.config, dtype, num_blocks=1).block_bytes

    def weights_bytes(self, dtype: torch.dtype) -> int:
        return self.config.num_parameters * dtype.itemsize

    def check_context(self, max_model_len: int) -> None:
        """Raises ModelError when it cannot follow the longest sequence that is served."""
        longest = self.config.max_position_embeddings
        if longest < max_model_len:
            reason = f"a draft model of {longest} tokens of context; {max_model_len} are served"
            raise ModelError(self.directory, reason)


def read_draft(config: WorkerConfig) -> Draft | None:
    """The draft model that is asked for, its weights not yet read.

    Raises ValueError for settings that do not go together, ModelError for a directory that
    cannot be served or has other tokens.
    """
    _check(config)
    if config.speculate != "model":
        return None
    directory = Path(config.draft_model)
    draft = Draft(directory, ModelConfig.from_directory(directory))
    if _vocabulary(directory) != _vocabulary(Path(config.model)):
        raise ModelError(directory, f"a draft model with other tokens than {config.model}")
    return draft


def make_speculator(
    config: WorkerConfig,
    draft: Draft | None,
    model: ForwardModel,
    options: EngineConfig,
    clock: Clock,
) -> Speculator | None:
    """For an engine of these options; None: it guesses nothing. Raises ModelError."""
    if config.speculate == "off":
        return None
    drafter: Drafter = PromptLookup() if draft is None else _load(draft, model, options)
    return Speculator(drafter, config.max_drafts, clock)


def _check(config: WorkerConfig) -> None:
    if config.speculate not in KINDS:
        raise ValueError(f"speculate {config.speculate!r} is not one of {', '.join(KINDS)}")
    if not 1 <= config.max_drafts <= 64:
        raise ValueError(f"max_drafts must be 1 to 64, is {config.max_drafts}")
    if (config.speculate == "model") != bool(config.draft_model):
        raise ValueError("speculate = model and draft_model go together: one is given alone")
    if config.speculate != "off" and config.profile:
        raise ValueError(f"speculate = {config.speculate} needs a real engine; a profile is set")


def _load(draft: Draft, model: ForwardModel, options: EngineConfig) -> DraftModel:
    """Its cache has the engine's blocks, and its dtype is the model's."""
    assert isinstance(model, Model), "a modelled worker guesses nothing"
    dtype, device = model.dtype, model.device
    shape = draft.config.with_context(options.max_model_len)
    small = load(draft.directory, shape, dtype, device)
    kv = allocate_kv(kv_layout(shape, dtype, options.num_blocks, BLOCK_SIZE), device)
    return DraftModel(small, kv, model.config.vocab_size, options.max_batch_tokens)


def _vocabulary(directory: Path) -> object:
    path = directory / "tokenizer.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(path, f"has no readable vocabulary: {error!r}") from error
