"""What operators are told to look at is there: metrics, commands, flags and panels."""

import json
import re
from pathlib import Path

import pytest

from baton.__main__ import SUMMARIES
from runtime.metrics import ALL_METRICS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("operations.md", "runbooks.md", "control.md")]
METRICS = {spec.name for spec in ALL_METRICS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_metrics_on_the_page_are_declared(page: Path) -> None:
    for name in re.findall(r"`(baton_[a-z0-9_]+[a-z0-9])\b(?!\*)[`{]", page.read_text()):
        assert re.sub(r"_(bucket|sum|count)$", "", name) in METRICS or name in METRICS, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_on_the_page_exist(page: Path) -> None:
    for name in re.findall(r"`baton ([a-z-]+)", page.read_text()):
        assert name in SUMMARIES, name


def test_the_flags_of_the_operations_page_are_settings() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text()
    page = (ROOT / "docs" / "operations.md").read_text()
    for flag in re.findall(r"`(--[a-z-]+[a-z])", page):
        assert f"`{flag}`" in reference, flag


def test_the_panels_of_the_operations_page_are_on_a_board() -> None:
    boards = [json.loads(path.read_text()) for path in (ROOT / "deploy" / "grafana").glob("*.json")]
    titles = {panel["title"] for board in boards for panel in board["panels"]}
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page.split("## From symptom to cause")[1]
    for row in re.findall(r"^\| [^|]+\| ([^|]+) \|", table, re.MULTILINE):
        for title in re.findall(r'"([^"]+)"', re.sub(r"`[^`]*`", "", row)):
            assert title in titles, title
