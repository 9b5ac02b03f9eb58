"""A policy or a mode that nobody knows is refused by name, with those that are known."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from control_plane.api.config_page import read_config
from control_plane.api.refusal import Refused
from control_plane.config import ControlConfig
from control_plane.planner_settings import read_planner_config
from runtime.settings import SettingsError

TIMEOUT_S = 60.0


@pytest.mark.parametrize(
    ("words", "environ", "text"),
    [
        (("gateway", "--model", "m", "--policy", "best"), {}, None),
        (("gateway", "--model", "m", "--shadow-policies", "dynamo;best"), {}, None),
        (("gateway", "--model", "m"), {"BATON_POLICY": "best"}, None),
        (("router",), {}, '[router]\npolicy = "best"'),
    ],
    ids=["flag", "shadow", "environment", "file"],
)
def test_a_process_that_is_given_an_unknown_policy_does_not_start(
    tmp_path: Path, words: tuple[str, ...], environ: dict[str, str], text: str | None
) -> None:
    if text is not None:
        (tmp_path / "settings.toml").write_text(text)
        words = (*words, "--config", str(tmp_path / "settings.toml"))
    done = subprocess.run(
        [sys.executable, "-m", "baton", *words],
        env={**os.environ, "BATON_STATE_DIR": str(tmp_path), **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode in (1, 2)
    assert "no policy 'best'; there are" in done.stdout + done.stderr
    assert "predicted" in done.stdout + done.stderr


def test_an_unknown_mode_is_refused_in_the_planners_file_and_by_the_operator_api(
    tmp_path: Path,
) -> None:
    known = "'best' is not one of auto, aggregated, hybrid, disaggregated"
    file = tmp_path / "planner.toml"
    file.write_text('[planner]\nmode = "best"\n')
    with pytest.raises(SettingsError, match=known):
        read_planner_config(ControlConfig(plan="act", planner_file=str(file)))
    with pytest.raises(Refused, match=known):
        read_config(msgspec.json.encode({"mode": "best"}))
    with pytest.raises(Refused, match="there is no setting 'policy'"):
        read_config(b'{"policy": "best"}')
