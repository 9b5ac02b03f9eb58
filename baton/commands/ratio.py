"""`baton ratio P:D`: splits the live workers, and holds the split against the planner."""

from typing import Annotated

import typer

from baton.operator_client import DryRunFlag, ReasonFlag, UrlFlag, act

RatioArgument = Annotated[str, typer.Argument(help="prefill:decode, such as 2:6.")]


def command(
    ratio: RatioArgument, dry_run: DryRunFlag = False, reason: ReasonFlag = "", url: UrlFlag = ""
) -> None:
    """Split the live workers prefill:decode by flips, and pin the split."""
    prefill, _, decode = ratio.partition(":")
    if not (prefill.isdecimal() and decode.isdecimal()):
        typer.echo(f"baton ratio: {ratio!r} is not prefill:decode, such as 2:6", err=True)
        raise typer.Exit(2)
    act("ratio", url, prefill=int(prefill), decode=int(decode), dry_run=dry_run, reason=reason)
