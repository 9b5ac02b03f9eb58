"""`baton doctor`: what works on this host."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from baton.checks.check import Check, State
from baton.checks.cluster import check_cluster
from baton.checks.fabric import check_fabric
from baton.checks.host import check_host
from baton.checks.model import check_model_directory
from baton.checks.services import Services, check_services
from baton.checks.torch_build import check_torch
from baton.up_config import DEMO_MODEL
from runtime.settings import environment

PORTS = (("HTTP", 8000), ("control", 8090))
_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.ABSENT: "dim", State.FAILED: "red"}

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON array.")]
ModelFlag = Annotated[
    Path, typer.Option(help="A Hugging Face model directory.", show_default="the bundled model")
]


def command(as_json: JsonFlag = False, model: ModelFlag = DEMO_MODEL) -> None:
    """Check this host and a model directory; exit code 1 if Baton cannot serve here."""
    checks = list(_all_checks(model))
    if as_json:
        typer.echo(msgspec.json.encode(checks).decode())
    else:
        Console().print(_table(checks))
    if any(check.state is State.FAILED for check in checks):
        raise typer.Exit(1)


def _all_checks(model: Path) -> Iterator[Check]:
    yield from check_host()
    yield from check_torch()
    yield from check_model_directory(model.expanduser())
    yield from check_cluster(PORTS)
    yield from check_services(_services())
    yield from check_fabric()


def _services() -> Services:
    """As the processes here would read them from the environment."""
    return Services(**{f.name: environment(f.name.upper()) for f in fields(Services)})


def _table(checks: list[Check]) -> Table:
    table = Table(show_header=False, box=None)
    for check in checks:
        state = Text(check.state, style=_COLOURS[check.state])
        table.add_row(check.name, state, Text(check.detail))
    return table
