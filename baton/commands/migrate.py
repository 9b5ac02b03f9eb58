"""`baton migrate`: has a worker's longest running requests go on elsewhere."""

import asyncio
from typing import Annotated

import typer

from baton.commands.flip import AddressFlag, WorkerArgument
from baton.commands.status import where
from wire import rpc
from wire.cluster import ControlOrder, OrderKind

CountFlag = Annotated[int, typer.Option(min=1, help="How many requests are to move.")]


def command(
    worker: WorkerArgument, count: CountFlag = 1, control_address: AddressFlag = ""
) -> None:
    """Move a worker's longest running requests to others."""
    address, token = where(control_address)
    try:
        asyncio.run(_migrate(address, token, worker, count))
    except rpc.RpcError as error:
        typer.echo(f"baton migrate: {error.details()}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{worker} asks for its {count} longest requests to be moved")


async def _migrate(address: str, token: str, worker_id: str, count: int) -> None:
    channel = rpc.open_channel(address)
    try:
        order = ControlOrder(OrderKind.MIGRATE, count=count)
        await rpc.send_order(channel, worker_id, order, token)
    finally:
        await channel.close(None)
