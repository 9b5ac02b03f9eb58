"""Flags over environment over file over defaults, and errors that name the setting."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.settings import SettingsError, load


@dataclass(frozen=True, slots=True)
class Config:
    host: str = "127.0.0.1"
    port: int = 8000
    ratio: float = 0.5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "baton.toml"
    path.write_text('[gateway]\nhost = "file"\nport = 1\nratio = 0.1\n')
    return path


def test_flags_win_over_environment_over_file_over_defaults(file: Path) -> None:
    environ = {"BATON_PORT": "2", "BATON_RATIO": "0.2"}
    config = load(Config, {"ratio": 0.3}, file=file, table="gateway", environ=environ)
    assert config == Config(host="file", port=2, ratio=0.3)


def test_a_flag_that_is_none_was_not_given() -> None:
    assert load(Config, {"port": None}, environ={}) == Config()


@pytest.mark.parametrize(
    ("flags", "content", "named"),
    [
        ({"port": "many"}, "", "port"),
        ({}, "[gateway]\nprot = 1", "prot"),
        ({}, "gateway = 3", "gateway"),
        ({}, "[gateway", "baton.toml"),
    ],
)
def test_a_wrong_setting_is_named(
    flags: dict[str, object], content: str, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "baton.toml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=named):
        load(Config, flags, file=path, table="gateway", environ={})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing.toml"):
        load(Config, {}, file=tmp_path / "missing.toml", environ={})
