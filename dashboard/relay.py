"""One browser's stream: the control plane's events and this server's own, whole frames only."""

import asyncio
from collections.abc import AsyncIterator

import httpx

from dashboard.listeners import Frames, Listeners

_END = b"\n\n"


async def merged(events: httpx.Response, listeners: Listeners) -> AsyncIterator[bytes]:
    """Frames until either side ends; `events` is closed then."""
    queue = listeners.join()
    pump = asyncio.create_task(_pump(events, listeners, queue), name="dashboard-events")
    try:
        while (frame := await queue.get()) is not None:
            yield frame
    finally:
        listeners.leave(queue)
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        await events.aclose()


async def _pump(events: httpx.Response, listeners: Listeners, queue: Frames) -> None:
    """Hands what the control plane says to one browser, and ends its stream when that ends."""
    rest = b""
    try:
        async for chunk in events.aiter_raw():
            whole, end, rest = (rest + chunk).rpartition(_END)
            if end:
                listeners.put(queue, whole + end)
    except httpx.HTTPError:
        pass  # the browser connects again, and is told why if that fails
    finally:
        listeners.end(queue)
