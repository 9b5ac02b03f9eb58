"""`baton pin PREFILL DECODE`: holds the pools at these sizes."""

from typing import Annotated

import typer

from baton.operator_client import DryRunFlag, ReasonFlag, UrlFlag, act

MinutesFlag = Annotated[float, typer.Option(min=0, help="How long; 0: until `baton unpin`.")]


def command(
    prefill: Annotated[int, typer.Argument(min=0, help="Prefill workers.")],
    decode: Annotated[int, typer.Argument(min=0, help="Decode workers.")],
    minutes: MinutesFlag = 0.0,
    dry_run: DryRunFlag = False,
    reason: ReasonFlag = "",
    url: UrlFlag = "",
) -> None:
    """Hold both pools at these sizes, by flips, then by starting and ending workers."""
    sizes = {"prefill": prefill, "decode": decode}
    act("pin", url, **sizes, minutes=minutes, dry_run=dry_run, reason=reason)
