"""The model directory of a cluster that only pretends to compute: a tokenizer and limits."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from baton.preflight import PreflightError
from baton.up_config import DEMO_MODEL, UpConfig
from profiles.catalog import ProfileError, load_profile
from profiles.profile import Profile
from runtime.settings import user_cache_dir


def with_modelled_model(config: UpConfig) -> UpConfig:
    """The settings of a cluster of modelled workers. Raises PreflightError for a bad profile.

    Without --model it serves the bundled model's tokenizer with the profile's context length.
    """
    try:
        profile = load_profile(config.profile)
    except ProfileError as error:
        raise PreflightError(f"--profile: {error}") from error
    gib = profile.kv_tokens * profile.kv_bytes_per_token / 2**30
    return replace(
        config,
        served_model_name=config.model_name,
        profile=_absolute(config.profile),
        model=config.model or str(_prepare(profile)),
        kv_memory=f"{gib:.1f}GiB",
    )


def _absolute(profile: str) -> str:
    """Workers may run elsewhere than this process."""
    return str(Path(profile).resolve()) if profile.endswith(".toml") else profile


def _prepare(profile: Profile) -> Path:
    """The bundled model's directory with another context length, in the cache of this user."""
    length = min(profile.max_model_len, profile.kv_tokens)
    target = user_cache_dir() / "modelled" / str(length)
    target.mkdir(parents=True, exist_ok=True)
    for source in DEMO_MODEL.glob("*.json"):
        if source.name != "config.json":
            _replace(target / source.name, source.read_text())
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    config["max_position_embeddings"] = length
    _replace(target / "config.json", json.dumps(config, indent=2))
    weights = target / "model.safetensors"
    if not weights.exists():
        shutil.copyfile(DEMO_MODEL / weights.name, weights)
    return target


def _replace(path: Path, text: str) -> None:
    """Another `baton up` may read the file at this moment."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text)
    part.replace(path)
