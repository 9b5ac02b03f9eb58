"""Profiles by name: `llama-3.1-8b@h200`, `llama-3.1-70b@h100x4`, or a TOML file."""

import json
import re
import tomllib
from dataclasses import fields, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeVar

import msgspec

from profiles.profile import Profile
from profiles.roofline import DeviceFacts, ModelFacts, roofline
from profiles.scatter import Scatter

T = TypeVar("T")
_NAME = re.compile(r"(?P<model>[a-z0-9.-]+)@(?P<device>[a-z0-9]+?)(?:x(?P<count>\d+))?")


class ProfileError(ValueError):
    """A profile that cannot be used; the message says which and why."""


def load_profile(name: str) -> Profile:
    """The profile of that name, or of that file when the name ends in .toml.

    A number of GPUs behind an x means tensor parallelism; `-measured` at the end, times of kernels
    in place of a roofline. Raises ProfileError.
    """
    if name.endswith(".toml"):
        return _read_file(Path(name))
    if name in measured_profiles():
        with as_file(files("profiles") / "data" / f"{name}.toml") as path:
            return _read_file(path)
    match = _NAME.fullmatch(name)
    models, devices = _table("models", ModelFacts), _table("devices", DeviceFacts)
    if match is None or match["model"] not in models or match["device"] not in devices:
        known = f"one of {', '.join(models)} @ one of {', '.join(devices)}"
        measured = ", ".join(measured_profiles())
        raise ProfileError(f"{name!r} is no profile: {known}, {measured}, or a .toml file")
    count = int(match["count"] or 1)
    if count < 1:
        raise ProfileError(f"{name!r}: a worker has at least one GPU")
    try:
        return roofline(name, models[match["model"]], devices[match["device"]], count)
    except ValueError as error:
        raise ProfileError(str(error)) from error


def with_host_memory(profile: Profile, num_bytes: int) -> Profile:
    """The profile with so much of the host's memory for what its devices evict; 0: as it is.

    Raises ProfileError where that holds no token, and for a profile that does not know how fast the
    host is.
    """
    if not num_bytes:
        return profile
    num_tokens = num_bytes // profile.kv_bytes_per_token
    if not num_tokens:
        need = f"a token's KV has {profile.kv_bytes_per_token}"
        raise ProfileError(f"{profile.name}: {num_bytes} bytes of host memory, {need}")
    return _checked(replace(profile, host_kv_tokens=num_tokens))


def known_profiles() -> list[str]:
    """Names of one GPU each that can be loaded."""
    names = [
        f"{model}@{device}"
        for model in _table("models", ModelFacts)
        for device in _table("devices", DeviceFacts)
    ]
    return [name for name in names if _fits(name)]


def measured_profiles() -> list[str]:
    """Names of the profiles that are sums of measured kernels; tools/measured_profiles.py."""
    names = (found.name for found in (files("profiles") / "data").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith("-measured.toml"))


def dump(profile: Profile) -> str:
    """The profile as a file that load_profile reads."""
    lines = [_line(field.name, getattr(profile, field.name)) for field in fields(profile)]
    return "".join(lines)


def _line(name: str, value: object) -> str:
    if isinstance(value, Scatter):
        parts = fields(value) if not value.is_none else ()
        return "".join(_line(f"{name}.{part.name}", getattr(value, part.name)) for part in parts)
    if isinstance(value, tuple):
        return f"{name} = [{', '.join(map(repr, value))}]\n"
    return f"{name} = {json.dumps(value) if isinstance(value, str) else repr(value)}\n"


def _fits(name: str) -> bool:
    try:
        load_profile(name)
    except ProfileError:
        return False
    return True


def _read_file(path: Path) -> Profile:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"cannot read the profile {path}: {error}") from error
    try:
        profile = msgspec.convert({"name": path.stem, **values}, Profile, strict=False)
    except msgspec.ValidationError as error:
        raise ProfileError(f"{path}: {error}") from error
    smallest = min(
        profile.step_s, profile.kv_tokens, profile.link_bytes_per_s, profile.max_num_seqs
    )
    if smallest <= 0:
        raise ProfileError(f"{path}: times, sizes and limits must be positive")
    return _checked(profile)


def _checked(profile: Profile) -> Profile:
    tokens, rate = profile.host_kv_tokens, profile.host_bytes_per_s
    if not 0 <= rate < float("inf") or tokens < 0:
        raise ProfileError(f"{profile.name}: host_bytes_per_s {rate}, host_kv_tokens {tokens}")
    if tokens and not rate:
        raise ProfileError(f"{profile.name}: host KV memory needs the profile's host_bytes_per_s")
    return profile


def _table(name: str, cls: type[T]) -> dict[str, T]:
    text = (files("profiles") / "data" / f"{name}.toml").read_text()
    rows: dict[str, object] = tomllib.loads(text)
    return {key: msgspec.convert(row, cls, strict=False) for key, row in rows.items()}
