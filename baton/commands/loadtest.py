"""`baton loadtest`: open-loop load against any OpenAI-compatible server, and its reports."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich import box
from rich.table import Table

from baton.commands.loadtest_flags import LoadFlags, with_load_flags
from baton.commands.loadtest_run import load_once, make_console
from baton.commands.loadtest_sweep import parse_grid, sorted_runs, sweep_all, sweep_table
from loadtest.compare import Comparison, caution, compare
from loadtest.errors import LoadtestError
from loadtest.html_report import write_html
from loadtest.result import RunResult
from loadtest.result_files import flat, read_json, write_json, write_requests
from loadtest.terminal import print_result

EXIT_SLO_MISSED, EXIT_BAD_INPUT, EXIT_INVALID, EXIT_STOPPED = 1, 2, 3, 130


class _RunByDefault(typer.core.TyperGroup):
    """`baton loadtest URL` is `baton loadtest run URL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


command = typer.Typer(cls=_RunByDefault, pretty_exceptions_enable=False)

UrlArgument = Annotated[
    str, typer.Argument(help="The server; empty: the cluster that runs on this host.")
]
JsonFlag = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
HtmlFlag = Annotated[Path | None, typer.Option("--html", help="Write a report with plots.")]
JsonlFlag = Annotated[
    Path | None, typer.Option("--jsonl", help="Write one line a request to this file.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="Show nothing while the load runs.")]
GridFlag = Annotated[
    str, typer.Option(help="Splits to start clusters of on this host: 1:1,2:1 (prefill:decode).")
]
UpFlag = Annotated[str, typer.Option("--up", help="Further flags of the clusters' `baton up`.")]
MaxRateFlag = Annotated[float, typer.Option(help="Where the search ends, in requests/s.")]


def run(
    url: UrlArgument = "",
    *,
    json_file: JsonFlag = None,
    jsonl_file: JsonlFlag = None,
    html_file: HtmlFlag = None,
    quiet: QuietFlag = False,
    **flags: Any,
) -> None:
    """Send load and report what came back."""
    console = make_console()
    with _input_errors():
        outcome = asyncio.run(load_once(url, LoadFlags(**flags), None if quiet else console))
        print_result(console, outcome.result)
        if json_file is not None:
            write_json(json_file, outcome.result)
        if jsonl_file is not None:
            write_requests(jsonl_file, outcome.records)
        if html_file is not None:
            write_html(html_file, [("", outcome.result)])
    raise typer.Exit(exit_code(outcome.result, flags["attain"]))


def sweep(
    url: UrlArgument = "",
    *,
    max_rate: MaxRateFlag = 1000.0,
    grid: GridFlag = "",
    up: UpFlag = "",
    json_file: JsonFlag = None,
    html_file: HtmlFlag = None,
    **flags: Any,
) -> None:
    """Find the largest rate at which the share --attain of requests meets --slo."""
    console = make_console()
    with _input_errors():
        found = sweep_all(url, LoadFlags(**flags), max_rate, parse_grid(grid, up), console)
        console.print(sweep_table(found))
        runs = sorted_runs(found)
        if json_file is not None:
            rates = [
                {"split": one.name, "best_rate": one.best.offered_rate if one.best else None}
                for one in found
            ]
            content = {"sweep": rates, "runs": [flat(result) for _, result in runs]}
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))
        if html_file is not None:
            write_html(html_file, runs)
    if any(one.problem for one in found):
        raise typer.Exit(EXIT_STOPPED)
    raise typer.Exit(0 if any(one.best is not None for one in found) else EXIT_SLO_MISSED)


def compare_files(
    a: Annotated[Path, typer.Argument(help="A result written with --json.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    html_file: HtmlFlag = None,
) -> None:
    """Compare two results, with 95 % intervals for the ratio of each figure."""
    with _input_errors():
        results = [("A", read_json(a)), ("B", read_json(b))]
        comparisons = compare(results[0][1], results[1][1])
        console = make_console()
        console.print(_comparison_table(comparisons))
        if note := caution(results[0][1], results[1][1]):
            console.print(f"[yellow]Note: {note}.[/yellow]", highlight=False)
        if html_file is not None:
            write_html(html_file, results, comparisons)


def exit_code(result: RunResult, attain: float) -> int:
    """0; 130 after Ctrl-C, 3 for figures that must not be used, 1 for a missed SLO."""
    if result.is_partial:
        return EXIT_STOPPED
    if result.invalid:
        return EXIT_INVALID
    needed = attain if result.facts.slo else 1e-9  # without an SLO, one answer is enough
    return EXIT_SLO_MISSED if result.overall.attainment < needed else 0


@contextmanager
def _input_errors() -> Iterator[None]:
    """What is wrong with input and files is one line and exit code 2."""
    try:
        yield
    except (LoadtestError, OSError) as error:
        typer.echo(f"baton loadtest: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from error


def _comparison_table(comparisons: list[Comparison]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("figure", "A", "B", "B / A", "95 % interval", ""):
        table.add_column(heading, justify="left" if heading in ("figure", "") else "right")
    for one in comparisons:
        interval = f"{one.low:.3f} to {one.high:.3f}"
        figures = (f"{one.a:.4g}", f"{one.b:.4g}", f"{one.ratio:.3f}", interval)
        table.add_row(one.name, *figures, one.verdict)
    return table


command.command("run", help="Send load and report what came back (the default).")(
    with_load_flags(run)
)
command.command("sweep", help="Find the largest rate that keeps its goodput.")(
    with_load_flags(sweep)
)
command.command("compare", help="Compare two results written with --json.")(compare_files)
