"""`baton add ROLE`: starts more workers, where something starts them."""

from typing import Annotated

import typer

from baton.operator_client import DryRunFlag, ReasonFlag, UrlFlag, act
from wire.messages import Role


def command(
    role: Annotated[Role, typer.Argument(help="prefill or decode.")],
    count: Annotated[int, typer.Argument(min=1, help="How many.")] = 1,
    hardware: Annotated[str, typer.Option(help="A kind, where the planner knows several.")] = "",
    dry_run: DryRunFlag = False,
    reason: ReasonFlag = "",
    url: UrlFlag = "",
) -> None:
    """Start more workers of a role."""
    wanted = {"role": role.value, "count": count, "hardware": hardware}
    act("add", url, **wanted, dry_run=dry_run, reason=reason)
