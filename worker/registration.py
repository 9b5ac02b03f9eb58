"""Tells the control plane that this worker is alive, once a second, and says goodbye at the end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from runtime.log import get_logger
from wire import rpc
from wire.channel_ring import ChannelRing
from wire.cluster import ControlOrder, WorkerBeat

BEAT_INTERVAL_S = 1.0
_RETRY_S = 0.5
_GOODBYE_S = 1.0
log = get_logger("worker")


class Registration:
    """One worker's place in the registry. A control plane that is gone is tried again for ever."""

    def __init__(
        self,
        address: str,
        token: str,
        beat: Callable[[], WorkerBeat],
        on_order: Callable[[ControlOrder], None],
    ) -> None:
        self._address = address
        self._token = token
        self._beat = beat
        self._on_order = on_order
        self._is_known = False
        self._is_leaving = False
        self._nudge = asyncio.Event()

    def beat_now(self) -> None:
        """Sends the next beat at once: something in it has changed."""
        self._nudge.set()

    async def run(self) -> None:
        """Beats until `leave`, or until cancelled."""
        ring = ChannelRing(self._address)
        try:
            while not self._is_leaving:
                try:
                    async for order in rpc.register(ring.channel, self._beats(), self._token):
                        self._heard(order)
                except rpc.RpcError as error:
                    self._lost(error)
                    await ring.move_on()
                if not self._is_leaving:
                    await asyncio.sleep(_RETRY_S)
        finally:
            await ring.close()

    async def leave(self, running: "asyncio.Task[None]") -> None:
        """Ends the beats cleanly, so that the registry forgets this worker at once."""
        self._is_leaving = True
        self._nudge.set()
        await asyncio.wait([running], timeout=_GOODBYE_S)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    async def _beats(self) -> AsyncIterator[WorkerBeat]:
        while not self._is_leaving:
            yield self._beat()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nudge.wait(), BEAT_INTERVAL_S)
            if not self._is_leaving:
                self._nudge.clear()

    def _heard(self, order: ControlOrder) -> None:
        if not self._is_known:
            log.info("registered", control=self._address)
            self._is_known = True
        self._on_order(order)

    def _lost(self, error: rpc.RpcError) -> None:
        if self._is_known:
            log.warning("control_plane_lost", control=self._address, error=error.details())
        self._is_known = False
