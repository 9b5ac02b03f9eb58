"""`baton loadtest`: open-loop load against any OpenAI-compatible server, and its reports."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from baton.checks.host import processor_name
from baton.commands.loadtest_faults import LocalFaults
from baton.commands.loadtest_flags import LoadFlags, command_line, target_of, with_load_flags
from baton.host_facts import host_facts
from baton.state_dir import StateDir
from loadtest.assemble import RunContext
from loadtest.errors import LoadtestError
from loadtest.order import plan_workload
from loadtest.result import RunResult
from loadtest.result_files import write_json, write_requests
from loadtest.server_facts import ask_server
from loadtest.session import Outcome, run_on_terminal
from loadtest.terminal import print_result
from runtime.clock import SystemClock, wall_time_s

EXIT_SLO_MISSED, EXIT_BAD_INPUT, EXIT_INVALID, EXIT_STOPPED = 1, 2, 3, 130
_FILE_WIDTH = 120  # columns, where the output is no terminal


class _RunByDefault(typer.core.TyperGroup):
    """`baton loadtest URL` is `baton loadtest run URL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


command = typer.Typer(cls=_RunByDefault, no_args_is_help=False, pretty_exceptions_enable=False)

UrlArgument = Annotated[
    str, typer.Argument(help="The server; empty: the cluster that runs on this host.")
]
JsonFlag = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
JsonlFlag = Annotated[
    Path | None, typer.Option("--jsonl", help="Write one line a request to this file.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="Show nothing while the load runs.")]


def run(
    url: UrlArgument = "",
    *,
    json_file: JsonFlag = None,
    jsonl_file: JsonlFlag = None,
    quiet: QuietFlag = False,
    **flags: Any,
) -> None:
    """Send load and report what came back."""
    console = make_console()
    try:
        outcome = asyncio.run(load_once(url, LoadFlags(**flags), None if quiet else console))
    except LoadtestError as error:
        typer.echo(f"baton loadtest: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from error
    print_result(console, outcome.result)
    if json_file is not None:
        write_json(json_file, outcome.result)
    if jsonl_file is not None:
        write_requests(jsonl_file, outcome.records)
    raise typer.Exit(exit_code(outcome.result, flags["attain"]))


command.command("run", help="Send load and report what came back (the default).")(
    with_load_flags(run)
)


async def load_once(url: str, flags: LoadFlags, console: Console | None) -> Outcome:
    """Everything that can be wrong with the input is found before any load is sent."""
    clock = SystemClock()
    target = target_of(url)
    workload = plan_workload(flags.order())
    flags.run_spec(target, "checked below", workload)
    facts = await ask_server(target, flags.model, clock)
    spec = flags.run_spec(target, facts.model, workload)
    context = RunContext(now(), flags.seed, host(), command_line(), facts.max_model_len)
    faults = LocalFaults(StateDir.of_environment())
    try:
        return await run_on_terminal(spec, context, clock, console, faults)
    finally:
        await faults.close()


def exit_code(result: RunResult, attain: float) -> int:
    """0; 3 for figures that must not be used, 130 after Ctrl-C, 1 for a missed SLO."""
    if result.is_partial:
        return EXIT_STOPPED
    if result.invalid:
        return EXIT_INVALID
    return EXIT_SLO_MISSED if result.facts.slo and result.overall.attainment < attain else 0


def make_console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


def now() -> str:
    return datetime.fromtimestamp(wall_time_s(), UTC).isoformat(timespec="seconds")


def host() -> dict[str, str]:
    facts = host_facts()
    packages: Sequence[str] = ("baton-serve", "uvloop", "httptools", "msgspec", "numpy")
    return {
        "system": facts.system,
        "processor": processor_name(),
        "usable cores": str(facts.num_usable_cores),
        "python": facts.python,
        **{name: version(name) for name in packages},
    }
