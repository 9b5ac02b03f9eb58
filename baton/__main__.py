"""The command line `baton`; a subcommand's module is imported only when that command runs.

`baton status` answers in a fraction of a second although `baton decode` needs torch. So the
commands stand here by name and summary, which is all that `baton --help` shows, and the one that
was asked for is loaded.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import typer

SUMMARIES: Mapping[str, str] = MappingProxyType(
    {
        "up": "Start a cluster on this host, print its addresses, and stay until Ctrl-C.",
        "down": "Stop the cluster that runs on this host.",
        "status": "Show workers, their load, and the processes that are kept alive.",
        "flip": "Give a live worker the other role, in place.",
        "migrate": "Move a worker's longest running requests to others.",
        "ratio": "Split the live workers prefill:decode by flips, and pin the split.",
        "pin": "Hold both pools at these sizes.",
        "unpin": "Give the pool sizes back to the planner.",
        "pause": "Have the planner do nothing until `baton resume`.",
        "resume": "End a pause of the planner.",
        "add": "Start more workers of a role.",
        "drain": "Let a worker end when its requests have.",
        "decisions": "Show the planner's decisions with their reasons.",
        "what-if": "Ask the planner which pools a supposed load needs.",
        "doctor": "Tell what works on this host.",
        "gateway": "Run one HTTP gateway with its router.",
        "router": "Run the router alone, as a gRPC service.",
        "prefill": "Run one prefill worker.",
        "decode": "Run one decode worker.",
        "control": "Run the control plane's registry.",
        "dashboard": "Serve the operator's page.",
        "loadtest": "Send open-loop load to any OpenAI-compatible server, and report.",
        "profile": "Write how long the live workers' steps take, for simulate.",
        "simulate": "Simulate a cluster with the real policies, in virtual time.",
        "bench": "Measure this host and write the figures down.",
    }
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: ends the process with the command's exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    app = typer.Typer(
        name="baton",
        help="Disaggregated prefill/decode serving of large language models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_no_options)
    wanted = next((word for word in words if not word.startswith("-")), "")
    for name, summary in SUMMARIES.items():
        command = _load(name) if name == wanted else _only_listed
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, help=summary)
        else:
            app.command(name, help=summary)(command)
    app(words, prog_name="baton")


def _load(name: str) -> Callable[..., None] | typer.Typer:
    """A command, or a group of them."""
    command: Callable[..., None] | typer.Typer
    command = importlib.import_module(f"baton.commands.{name.replace('-', '_')}").command
    return command


def _no_options() -> None:
    """Options stand behind the commands."""


def _only_listed() -> None:
    """Stands in for a command that is shown by --help and not run."""


if __name__ == "__main__":
    main()
