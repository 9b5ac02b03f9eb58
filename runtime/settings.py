"""One settings tree a process: flags over environment over a TOML file over defaults."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
ENV_PREFIX = "BATON_"


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and where it came from."""


def load(
    cls: type[T],
    flags: Mapping[str, object],
    *,
    file: Path | None = None,
    table: str = "",
    environ: Mapping[str, str] | None = None,
) -> T:
    """Builds the frozen dataclass `cls` once.

    flags: values by field name; None means not given. file: TOML, its [table] if named. The
    environment variable of a field is BATON_ and its name in capitals.

    Raises SettingsError for an unknown key in the file or a value of the wrong type.
    """
    values: dict[str, object] = {}
    if file is not None:
        values.update(_read_file(cls, file, table))
    values.update(_read_environ(cls, os.environ if environ is None else environ))
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return msgspec.convert(values, cls, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{cls.__name__}: {error}") from error


def environment(name: str, default: str = "") -> str:
    """BATON_<name> of this process's environment."""
    return os.environ.get(ENV_PREFIX + name, default)


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `extra`, for a process that it starts."""
    return {**os.environ, **extra}


def set_library_defaults(variables: Mapping[str, str]) -> None:
    """Settings of native libraries that read them from the environment only; what stands there
    already is kept. To be called before the library is loaded."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def user_cache_dir() -> Path:
    """Where compiled operators are kept: BATON_CACHE_DIR, else the XDG cache folder."""
    given = environment("CACHE_DIR")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "baton"


def _read_file(cls: type[Any], file: Path, table: str) -> dict[str, object]:
    try:
        content = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {file}: {error}") from error
    section = content.get(table, {}) if table else content
    if not isinstance(section, dict):
        raise SettingsError(f"{file}: [{table}] is not a table")
    unknown = sorted(set(section) - {field.name for field in fields(cls)})
    if unknown:
        raise SettingsError(f"{file}: [{table}] has unknown settings: {', '.join(unknown)}")
    return section


def _read_environ(cls: type[Any], environ: Mapping[str, str]) -> dict[str, object]:
    names = ((field.name, ENV_PREFIX + field.name.upper()) for field in fields(cls))
    return {name: environ[variable] for name, variable in names if variable in environ}
