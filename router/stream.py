"""One gRPC session to a worker's address, opened again whenever it ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from router.config import RouterConfig
from runtime.log import get_logger
from wire.messages import ClientFrame, Hello, WorkerFrame
from wire.rpc import Channel, RpcError, open_channel, open_session

_Outbox = asyncio.Queue[ClientFrame | None]  # None ends the request side
_log = get_logger("router")


class StreamOwner(Protocol):
    """Who hears what happens on a stream, on the event loop."""

    def opening(self) -> None: ...

    def frame_came(self, frame: WorkerFrame) -> None: ...

    def ended(self, reason: str) -> None: ...


class WorkerStream:
    """Begins each session with Hello; between two sessions waits, longer after each failure.

    Owns its tasks and channel: close() and then wait_closed() end them.
    """

    def __init__(self, address: str, config: RouterConfig, owner: StreamOwner) -> None:
        self._address = address
        self._config = config
        self._owner = owner
        self._outbox = _Outbox()
        self._backoff_s = config.reconnect_min_s
        self._reader: asyncio.Task[None] | None = None
        self._runner: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._runner = asyncio.get_running_loop().create_task(self._run())

    def send(self, frame: ClientFrame) -> None:
        """Queues a frame for the session that is open; nothing of it reaches a later one."""
        self._outbox.put_nowait(frame)

    def works(self) -> None:
        """The worker answered sensibly: the next failure is retried soon."""
        self._backoff_s = self._config.reconnect_min_s

    def break_off(self) -> None:
        """Ends the open session, so that the worker cancels its legs, and opens another."""
        if self._reader is not None:
            self._reader.cancel()

    def close(self) -> None:
        if self._runner is not None:
            self._runner.cancel()

    async def wait_closed(self) -> None:
        if self._runner is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner

    async def _run(self) -> None:
        channel = open_channel(self._address)
        try:
            while True:
                self._outbox = _Outbox()
                self.send(Hello(self._config.client_id))
                self._owner.opening()
                reading = self._read(channel, self._outbox)
                self._reader = asyncio.get_running_loop().create_task(reading)
                await asyncio.wait({self._reader})
                self._owner.ended(_reason(self._reader))
                await asyncio.sleep(self._backoff_s)
                self._backoff_s = min(2 * self._backoff_s, self._config.reconnect_max_s)
        finally:
            if self._reader is not None and not self._reader.done():
                self._reader.cancel()
                await asyncio.wait({self._reader})
            await channel.close(None)

    async def _read(self, channel: Channel, outbox: _Outbox) -> None:
        token = self._config.cluster_token
        try:
            async for frame in open_session(channel, _until_none(outbox), token):
                self._owner.frame_came(frame)
        finally:
            # gRPC never cancels the request side of a call that ended by itself.
            outbox.put_nowait(None)


async def _until_none(outbox: _Outbox) -> AsyncIterator[ClientFrame]:
    while (frame := await outbox.get()) is not None:
        yield frame


def _reason(reader: asyncio.Task[None]) -> str:
    if reader.cancelled():
        return "the router gave it up"
    error = reader.exception()
    if error is None:
        return "the worker ended the session"
    if isinstance(error, RpcError):
        return f"{error.code().name}: {error.details()}"
    _log.error("session failed", exc_info=error)
    return repr(error)
