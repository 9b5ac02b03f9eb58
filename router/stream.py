"""One session to a worker's address, opened again whenever it ends."""

import asyncio
import contextlib
from typing import Protocol

from router.config import RouterConfig
from runtime.log import get_logger
from wire.bidi_call import CallError
from wire.messages import ClientFrame, Hello, WorkerFrame
from wire.session import SessionCall, open_session

_log = get_logger("router")


class StreamOwner(Protocol):
    """Who hears what happens on a stream, on the event loop."""

    def opening(self) -> None: ...

    def frame_came(self, frame: WorkerFrame) -> None: ...

    def ended(self, reason: str) -> None: ...


class WorkerStream:
    """Begins each session with Hello; between two sessions waits, longer after each failure.

    Owns its tasks and connection: close() and then wait_closed() end them.
    """

    def __init__(self, address: str, config: RouterConfig, owner: StreamOwner) -> None:
        self._address = address
        self._config = config
        self._owner = owner
        self._session: SessionCall | None = None
        self._backoff_s = config.reconnect_min_s
        self._opened: asyncio.Task[None] | None = None
        self._runner: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._runner = asyncio.get_running_loop().create_task(self._run())

    def send(self, frame: ClientFrame) -> None:
        """Sends a frame in the session that is open; nothing of it reaches a later one."""
        if self._session is not None:
            self._session.send(frame)

    def works(self) -> None:
        """The worker answered sensibly: the next failure is retried soon."""
        self._backoff_s = self._config.reconnect_min_s

    def break_off(self) -> None:
        """Ends the open session, so that the worker cancels its legs, and opens another."""
        if self._opened is not None:
            self._opened.cancel()

    def close(self) -> None:
        if self._runner is not None:
            self._runner.cancel()

    async def wait_closed(self) -> None:
        if self._runner is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner

    async def _run(self) -> None:
        try:
            while True:
                self._owner.opening()
                self._opened = asyncio.get_running_loop().create_task(self._serve())
                await asyncio.wait({self._opened})
                self._owner.ended(_reason(self._opened))
                await asyncio.sleep(self._backoff_s)
                self._backoff_s = min(2 * self._backoff_s, self._config.reconnect_max_s)
        finally:
            if self._opened is not None and not self._opened.done():
                self._opened.cancel()
                await asyncio.wait({self._opened})

    async def _serve(self) -> None:
        """One session, from its beginning to its end."""
        token = self._config.cluster_token
        session = await open_session(self._address, self._owner.frame_came, token)
        self._session = session
        try:
            session.send(Hello(self._config.client_id))
            await session.ended
        finally:
            self._session = None
            session.close()


def _reason(opened: asyncio.Task[None]) -> str:
    if opened.cancelled():
        return "the router gave it up"
    error = opened.exception()
    if error is None:
        return "the worker ended the session"
    if isinstance(error, CallError):
        return str(error)
    _log.error("session failed", exc_info=error)
    return repr(error)
