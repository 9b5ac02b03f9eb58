"""The pages of docs/adr: one number each, and the number that is cited is there."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "adr").glob("*.md"))
NUMBERS = [page.name[:4] for page in PAGES]
ROOMS = ("wire", "runtime", "engine", "kv_transfer", "router", "loadtest", "simulate", "worker")
ROOMS += ("prefill_worker", "decode_worker", "control_plane", "dashboard", "gateway", "baton")


def test_no_two_decisions_have_one_number() -> None:
    assert [number for number, times in Counter(NUMBERS).items() if times > 1] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem[:40])
def test_a_decision_is_headed_by_the_number_of_its_file(page: Path) -> None:
    heading = re.match(r"# (\d+)[.:] \S", page.read_text())
    assert heading and int(heading[1]) == int(page.name[:4])


def test_the_decisions_that_are_cited_are_there() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    files += [*(ROOT / "docs").glob("*.md"), *PAGES, ROOT / "README.md"]
    for path in files:
        for number in re.findall(r"\badr/(\d{4})", path.read_text()):
            assert number in NUMBERS, f"{path.relative_to(ROOT)} cites {number}"
