"""The tests that the routing page names are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "routing.md").read_text()
FILES = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


def rows() -> list[str]:
    return [line for line in PAGE.splitlines() if line.startswith("|") and "`test_" in line]


def test_every_named_test_is_in_the_file_that_is_named_before_it() -> None:
    assert len(rows()) >= 10
    for row in rows():
        source = ""
        for name in re.findall(r"`([A-Za-z_]+)`", row):
            if name in FILES:
                source = FILES[name]
            elif name.startswith("test_") or name.endswith("Machine"):
                assert re.search(rf"(def|class) {name}\b", source), f"{name} in: {row}"


def test_every_path_of_a_test_on_the_page_exists() -> None:
    for name in re.findall(r"`(tests/[a-z0-9_/]+\.py)", PAGE):
        assert (ROOT / name).is_file(), name


def test_the_page_lists_every_file_of_the_router() -> None:
    listed = re.findall(r"`([a-z_]+\.py)`", PAGE[PAGE.index("## The files") :].split("\n## ")[0])
    there = [path.name for path in (ROOT / "router").glob("[a-z]*.py")]
    assert sorted(listed) == sorted(there)
