"""What guesses tokens on this worker: nothing, the text itself, a small model, or a head."""

import json
from pathlib import Path

from engine.config import ModelConfig
from engine.eagle_config import read_eagle
from engine.errors import ModelError
from engine.fallback.config import read_config
from engine.forward import ForwardModel
from engine.options import EngineConfig
from engine.speculation.drafter import Drafter
from engine.speculation.lookup import PromptLookup
from engine.speculation.speculator import Speculator
from runtime.clock import Clock
from worker.config import WorkerConfig
from worker.drafts import Draft, Head, SmallModel

KINDS = ("off", "lookup", "model")


def read_draft(config: WorkerConfig) -> Draft | None:
    """What is asked for of what has weights; these are not yet read.

    Raises ValueError for settings that do not go together, ModelError for a directory that
    cannot be served, has other tokens, or is of another model than the one that is served.
    """
    _check(config)
    if config.speculate != "model":
        return None
    directory = Path(config.draft_model)
    head = read_eagle(directory)
    if head is not None:
        head.check_fits(read_config(Path(config.model)), directory)
        return Head(directory, head)
    draft = SmallModel(directory, ModelConfig.from_directory(directory))
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
    drafter: Drafter = PromptLookup() if draft is None else draft.drafter(model, options)
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


def _vocabulary(directory: Path) -> object:
    path = directory / "tokenizer.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(path, f"has no readable vocabulary: {error!r}") from error
