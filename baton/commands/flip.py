"""`baton flip`: gives a live worker the other role, in place."""

import asyncio
import time
from typing import Annotated

import typer

from baton.commands.status import where
from baton.operator_client import (
    OperatorClient,
    OperatorError,
    OperatorSilent,
    ReasonFlag,
    operator_client,
)
from control_plane.api.shapes import ActionResult
from wire import rpc
from wire.cluster import ControlOrder, OrderKind, WorkerStatus
from wire.messages import Role

_POLL_S = 0.02

WorkerArgument = Annotated[str, typer.Argument(help="The worker's id, as `baton status` shows it.")]
RoleArgument = Annotated[Role, typer.Argument(help="The role that it takes.")]
TimeoutFlag = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the flip's end.")]
AddressFlag = Annotated[
    str,
    typer.Option(help="host:port of a control plane; empty: the cluster that runs on this host."),
]


def command(
    worker: WorkerArgument,
    role: RoleArgument,
    timeout_s: TimeoutFlag = 30.0,
    control_address: AddressFlag = "",
    reason: ReasonFlag = "",
) -> None:
    """Give a live worker the other role, in place."""
    address, token = where(control_address)
    client = None if control_address else operator_client("")
    started_s = time.monotonic()
    try:
        is_asked = client is not None and _asked(client, worker, role, reason)
        text = asyncio.run(_flip(address, token, worker, role, timeout_s, started_s, is_asked))
    except OperatorError as error:
        typer.echo(f"baton flip: {error}", err=True)
        raise typer.Exit(1) from error
    except rpc.RpcError as error:
        typer.echo(f"baton flip: {error.details()}", err=True)
        raise typer.Exit(1) from error
    typer.echo(text)


def _asked(client: OperatorClient, worker_id: str, role: Role, reason: str) -> bool:
    """Over the operator API, which writes down who asked; False where it does not answer."""
    body = {"worker_id": worker_id, "role": role.value, "reason": reason}
    try:
        client.post("actions/flip", body, ActionResult)
    except OperatorSilent:
        return False
    return True


async def _flip(
    address: str,
    token: str,
    worker_id: str,
    role: Role,
    timeout_s: float,
    started_s: float,
    is_asked: bool,
) -> str:
    """Orders the flip, unless it is asked for already, and waits until the control plane sees it
    done, or for timeout_s."""
    channel = rpc.open_channel(address)
    taken_s = 0.0
    try:
        if not is_asked:
            order = ControlOrder(OrderKind.FLIP, role)
            await rpc.send_order(channel, worker_id, order, token)
        while (elapsed_s := time.monotonic() - started_s) < timeout_s:
            found = await _worker(channel, token, worker_id)
            if found is None:
                return f"{worker_id} has left the cluster"
            if found.info.role is role:
                taken_s = taken_s or elapsed_s
                if not found.info.flipping:
                    return (
                        f"{worker_id} is a {role} worker after {taken_s:.3f} s; "
                        f"the last answer of its role before left after {elapsed_s:.3f} s"
                    )
            await asyncio.sleep(_POLL_S)
    finally:
        await channel.close(None)
    if not taken_s:
        return f"{worker_id} has not taken the role {role} within {timeout_s:.1f} s"
    return (
        f"{worker_id} is a {role} worker after {taken_s:.3f} s; "
        "answers of its role before still run on it"
    )


async def _worker(channel: rpc.Channel, token: str, worker_id: str) -> WorkerStatus | None:
    status = await rpc.fetch_status(channel, token)
    return next((w for w in status.workers if w.info.worker_id == worker_id), None)
