"""`baton bench`: measured figures with the hardware and versions that they belong to.

A bench's module is imported only when it is asked for: each needs libraries of its own.
"""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from baton.bench.row import NoDeviceError, Row
from baton.host_facts import host_facts

# Each module has `run(repeats: int) -> Iterable[Row]`; the file is written again with each row.
BENCHES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "engine": (
            "baton.bench.engine",
            "baton.bench.host_tier",
            "baton.bench.speculation",
            "baton.bench.overlap",
            "baton.bench.path",
        ),
        "router": ("baton.bench.router", "baton.bench.relay"),
        "gateway": ("baton.bench.gateway",),
        "kv": (
            "baton.bench.kv",
            "baton.bench.kv_exposed",
            "baton.bench.kv_formats",
        ),
        "flip": ("baton.bench.flip",),
        "planner": ("baton.bench.planner",),
        "simulate": ("baton.bench.simulate",),
        "loadtest": ("baton.bench.loadtest",),
        "control": ("baton.bench.control",),
        "kernels": ("baton.bench.kernels", "baton.bench.gpu_model"),
    }
)

ENGINE_ON_CUDA = ("baton.bench.gpu_model", "baton.bench.gpu_engine")

WhatArgument = Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHES)}.")]
JsonFlag = Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")]
RepeatsFlag = Annotated[int, typer.Option(min=1, help="Runs of which the median is taken.")]
AnyCoresFlag = Annotated[
    bool,
    typer.Option(
        "--any-cores",
        help="kv: let the kernel place the processes, not hold them on the two nearest cores.",
    ),
]
DeviceFlag = Annotated[str, typer.Option(help="engine: cpu, or cuda for a GPU's figures.")]
_PLACED = "baton.bench.kv"  # whose `run` takes any_cores


def command(
    what: WhatArgument,
    json_file: JsonFlag = None,
    repeats: RepeatsFlag = 5,
    any_cores: AnyCoresFlag = False,
    device: DeviceFlag = "cpu",
) -> None:
    """Measure this host and write the figures down."""
    if what not in BENCHES:
        typer.echo(f"baton bench: {what!r} is not one of {', '.join(BENCHES)}", err=True)
        raise typer.Exit(2)
    if any_cores and what != "kv":
        typer.echo(f"baton bench: --any-cores is for kv, not for {what}", err=True)
        raise typer.Exit(2)
    if device not in ("cpu", "cuda") or (device == "cuda" and what != "engine"):
        typer.echo(f"baton bench: --device is cpu, or cuda for engine, not {device}", err=True)
        raise typer.Exit(2)
    rows: list[Row] = []
    host = host_facts()
    modules = ENGINE_ON_CUDA if device == "cuda" else BENCHES[what]
    try:
        for row in _measured(modules, repeats, any_cores):
            rows.append(row)
            if json_file is not None:
                content = {"bench": what, "repeats": repeats, "host": host, "rows": rows}
                json_file.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    except NoDeviceError as error:
        typer.echo(f"baton bench: {error}", err=True)
        raise typer.Exit(1) from error
    Console().print(_table(rows))
    failed = [row for row in rows if row.failure]
    for row in failed:
        typer.echo(f"baton bench: {row.name} failed: {row.failure}", err=True)
    if failed:
        raise typer.Exit(1)


def _measured(modules: tuple[str, ...], repeats: int, any_cores: bool) -> Iterator[Row]:
    for module in modules:
        options = {"any_cores": any_cores} if module == _PLACED else {}
        yield from importlib.import_module(module).run(repeats, **options)


def _table(rows: list[Row]) -> Table:
    table = Table()
    for heading in ("figure", "value", "unit", "baseline", "its value", "ratio"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.value:.4g}",
            row.unit,
            row.baseline,
            f"{row.baseline_value:.4g}",
            f"{row.ratio:.2f}",
        )
    return table
