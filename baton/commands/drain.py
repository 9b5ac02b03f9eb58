"""`baton drain WORKER`: the worker ends when its requests have."""

from typing import Annotated

import typer

from baton.operator_client import DryRunFlag, ReasonFlag, UrlFlag, act

WorkerArgument = Annotated[str, typer.Argument(help="The worker's id, as `baton status` shows it.")]
RemoveFlag = Annotated[bool, typer.Option("--remove", help="For good: it is not started again.")]


def command(
    worker: WorkerArgument,
    remove: RemoveFlag = False,
    dry_run: DryRunFlag = False,
    reason: ReasonFlag = "",
    url: UrlFlag = "",
) -> None:
    """Let a worker end when its requests have; what keeps its process starts it again."""
    action = "remove" if remove else "drain"
    act(action, url, worker_id=worker, dry_run=dry_run, reason=reason)
