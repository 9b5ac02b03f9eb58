"""Tells the control plane that this worker is alive, as often as it asks, and says goodbye."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from runtime.log import get_logger
from wire import rpc
from wire.channel_ring import ChannelRing
from wire.cluster import ControlOrder, OrderKind, WorkerBeat

BEAT_INTERVAL_S = 1.0
_RETRY_S = 0.5
_GOODBYE_S = 1.0
_ANSWER_S = 8.0  # every beat is answered; a process that stands still keeps its connections open
log = get_logger("worker")


class Registration:
    """One worker's place in the registry. A control plane that is gone is tried again for ever.

    Of several control planes, what one says of a term below the highest heard is not done: it
    was the leader, and another one has led since.
    """

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
        self._term = 0
        self._beat_s = BEAT_INTERVAL_S
        self._is_known = False
        self._is_leaving = False
        self._nudge = asyncio.Event()
        self._due: asyncio.TimerHandle | None = None  # sets it when the next beat is due

    def beat_now(self) -> None:
        """Sends the next beat at once: something in it has changed."""
        self._nudge.set()

    async def run(self) -> None:
        """Beats until `leave`, or until cancelled."""
        ring = ChannelRing(self._address)
        try:
            while not self._is_leaving:
                try:
                    await self._stay(ring.channel)
                except rpc.RpcError as error:
                    self._lost(error.details() or error.code().name)
                    await ring.move_on()
                except TimeoutError:
                    self._lost(f"it has not answered for {_ANSWER_S:.0f} s")
                    await ring.move_on()
                if not self._is_leaving:
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._stop_timer()
            await ring.close()

    async def leave(self, running: "asyncio.Task[None]") -> None:
        """Ends the beats cleanly, so that the registry forgets this worker at once."""
        self._is_leaving = True
        self._nudge.set()
        await asyncio.wait([running], timeout=_GOODBYE_S)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    async def _stay(self, channel: rpc.Channel) -> None:
        """With one control plane for as long as it answers. Raises RpcError, TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_ANSWER_S) as limit:
            async for order in rpc.register(channel, self._beats(), self._token):
                self._heard(order)
                limit.reschedule(loop.time() + _ANSWER_S + self._beat_s - BEAT_INTERVAL_S)

    async def _beats(self) -> AsyncIterator[WorkerBeat]:
        while not self._is_leaving:
            self._nudge.clear()
            self._beat_in(self._beat_s)
            yield replace(self._beat(), term=self._term)
            await self._nudge.wait()

    def _beat_in(self, wait_s: float) -> None:
        """From now on; the answer to a beat corrects what was set when it went out."""
        self._stop_timer()
        self._due = asyncio.get_running_loop().call_later(wait_s, self._nudge.set)

    def _stop_timer(self) -> None:
        if self._due is not None:
            self._due.cancel()

    def _heard(self, order: ControlOrder) -> None:
        if not self._is_known:
            log.info("registered", control=self._address)
            self._is_known = True
        if 0 < order.term < self._term:
            if order.kind is not OrderKind.ACK:
                log.warning("order_refused", kind=order.kind, term=order.term, heard=self._term)
            return
        self._term = max(self._term, order.term)
        if order.kind is OrderKind.ACK:
            self._beat_s = order.beat_s or BEAT_INTERVAL_S
            self._beat_in(self._beat_s)
        self._on_order(order)

    def _lost(self, reason: str) -> None:
        if self._is_known:
            log.warning("control_plane_lost", control=self._address, error=reason)
        self._is_known = False
