"""Tells the control plane that this worker is alive, once a second, for as long as it is."""

import asyncio
from collections.abc import AsyncIterator, Callable

from runtime.log import get_logger
from wire import rpc
from wire.cluster import WorkerBeat

BEAT_INTERVAL_S = 1.0
_RETRY_S = 0.5
log = get_logger("worker")


async def keep_registered(
    address: str, token: str, beat: Callable[[], WorkerBeat], on_order: Callable[[str], None]
) -> None:
    """Beats until cancelled; a control plane that is gone is tried again, serving goes on."""
    channel = rpc.open_channel(address)
    is_known = False
    try:
        while True:
            try:
                async for order in rpc.register(channel, _beats(beat), token):
                    if not is_known:
                        log.info("registered", control=address)
                        is_known = True
                    on_order(order)
            except rpc.RpcError as error:
                if is_known:
                    log.warning("control_plane_lost", control=address, error=error.details())
                is_known = False
            await asyncio.sleep(_RETRY_S)
    finally:
        await channel.close(None)


async def _beats(beat: Callable[[], WorkerBeat]) -> AsyncIterator[WorkerBeat]:
    while True:
        yield beat()
        await asyncio.sleep(BEAT_INTERVAL_S)
