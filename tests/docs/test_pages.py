"""What any page tells a reader to type or to open is there: commands, flags, variables, files."""

import functools
import importlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from baton.__main__ import SUMMARIES
from baton.up_config import UpConfig
from control_plane.config import ControlConfig
from dashboard.config import DashboardConfig
from gateway.config import GatewayConfig
from router.server_config import RouterServerConfig
from worker.config import WorkerConfig

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "adr").glob("*.md")),
    ROOT / "deploy" / "helm" / "baton" / "README.md",
]
CONFIGS = (
    UpConfig,
    ControlConfig,
    DashboardConfig,
    GatewayConfig,
    RouterServerConfig,
    WorkerConfig,
)
ENDS = re.compile(r"\s(?:\||#|&&|;|>|2>|\$?\().*|'[^']*'", re.DOTALL)  # of a command's own words


def code(page: Path) -> Iterator[str]:
    """Each line of its blocks, with those that it goes on with, and each span of code."""
    text = page.read_text()
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    for block in blocks:
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines())
    yield from re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", text)


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Name and what stands behind it, of each `baton NAME ...`."""
    for line in code(page):
        found = re.match(
            r"(?:\$ )?(?:[A-Z_]+=\S+ |kubectl exec \S+ -- )*(?:[\w./]*/)?baton ([a-z][a-z-]*)(.*)",
            line,
            re.S,
        )
        if found:
            yield found[1], ENDS.sub("", found[2])


@functools.cache
def flags_of(name: str) -> frozenset[str]:
    """Of the command, and of the commands of a group."""
    own = importlib.import_module(f"baton.commands.{name.replace('-', '_')}").command
    app = own if isinstance(own, typer.Typer) else typer.Typer()
    if app is not own:
        app.command(name)(own)
    command = typer.main.get_command(app)
    parts = [command, *getattr(command, "commands", {}).values()]
    return frozenset(word for part in parts for p in part.params for word in p.opts)


@functools.cache
def read_alone() -> frozenset[str]:
    """Variables that are no setting of a process."""
    files = [path for name in ("baton", "runtime") for path in (ROOT / name).rglob("*.py")]
    return frozenset(
        name for path in files for name in re.findall(r'environment\("(\w+)"\)', path.read_text())
    )


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        plain = unicodedata.normalize("NFC", re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading)).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


@pytest.fixture(params=PAGES, ids=lambda path: str(path.relative_to(ROOT))[:40])
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_each_command_exists_and_takes_each_flag(page: Path) -> None:
    for name, rest in commands(page):
        assert name in SUMMARIES, name
        for flag in re.findall(r"(?<!\S)(--[a-z][a-z0-9-]*)", rest):
            assert flag in flags_of(name) | {"--help"}, f"baton {name} {flag}"


def test_each_target_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code(page):
        if found := re.match(r"(?:\$ )?make ([a-z-]+)", line):
            assert found[1] in targets, line


def test_each_variable_is_a_setting(page: Path) -> None:
    names = {field.name.upper() for config in CONFIGS for field in fields(config)}
    names |= read_alone()
    for name in re.findall(r"\bBATON_([A-Z][A-Z_]*[A-Z])\b", page.read_text()):
        assert name in names, f"BATON_{name}"


def test_each_variable_without_a_flag_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    for name in read_alone():
        assert f"| `BATON_{name}` |" in text, name


def test_each_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        other = (page.parent / target).resolve() if target else page
        assert other.exists(), target
        assert not anchor or other.suffix != ".md" or anchor in anchors(other), f"{target}#{anchor}"


def test_each_path_is_there(page: Path) -> None:
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for span in re.findall(r"`([\w./-]+/[\w./-]*)`", page.read_text()):
        if span.split("/")[0] in rooms and ".." not in span:
            assert (ROOT / span).exists(), span
