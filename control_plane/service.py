"""The control plane's answers: workers register and beat, gateways watch, operators ask."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final

from control_plane.leadership import Leadership, NotLeader, SoleLeadership
from control_plane.registry import Registry
from runtime.clock import Clock
from runtime.log import get_logger
from runtime.metrics import Metrics
from wire.cluster import (
    ClusterSnapshot,
    ClusterStatus,
    ControlOrder,
    Mode,
    OrderKind,
    ProcessStatus,
    ServingMode,
    WorkerBeat,
    WorkerInfo,
)
from wire.errors import BatonError, ErrorCode
from wire.messages import Role

ACK: Final = ControlOrder(OrderKind.ACK)
DRAIN: Final = ControlOrder(OrderKind.DRAIN)
EXPIRY_PERIOD_S = 0.25
_LEADER_CHECK_S = 0.5
_PAUSE_S = 1.0  # a gap between two checks that says that this process itself stood still

_log = get_logger("control_plane")


class ControlPlane:
    """A wire.rpc.ControlService over one registry.

    processes: gives the processes that an actuator in this process keeps. leadership None: there
    is no other control plane. Where another one leads, workers and gateways are sent on to it; a
    leader whose store is silent still hears them. steers: a planner chooses the mode; else gateways
    serve by their own policy, whatever another process told them.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        *,
        settle_s: float = 0.0,
        processes: Callable[[], tuple[ProcessStatus, ...]] = tuple,
        leadership: Leadership | None = None,
        steers: bool = False,
    ) -> None:
        self._steers = steers
        self._registry = registry
        self._clock = clock
        self._metrics = metrics
        self._processes = processes
        self._leadership = leadership or SoleLeadership()
        self._settled_at_s = clock.now() + settle_s

    async def register(self, beats: AsyncIterator[WorkerBeat]) -> AsyncIterator[ControlOrder]:
        """Answers each beat with ACK, or with DRAIN when a newer process has the worker_id.

        Orders go out between the answers as they come. The worker's own end of the stream is its
        goodbye: it is acknowledged and removed at once. After a stream that breaks, it has the
        pace's base timeout to come back on another one.
        """
        stream = _OrderStream(beats, self._apply, self._registry.next_order)
        try:
            async with contextlib.aclosing(stream.orders()) as orders:
                async for order in orders:
                    yield order
            yield ACK  # fails, and ends this call here, where the stream ended because it broke
            self._left(stream.last)
        finally:
            if stream.last is not None:
                self._registry.disconnected(stream.last.worker_id, stream)

    def _left(self, worker: WorkerInfo | None) -> None:
        if worker is not None and self._registry.remove(worker.worker_id, worker.epoch):
            _log.info("worker left", worker=worker.worker_id, epoch=worker.epoch)
            self._count_workers()

    async def watch(self, client_id: str, follows: ServingMode) -> AsyncIterator[ClusterSnapshot]:
        """The cluster as it is, then again at every change, until the watcher hangs up.

        follows: the mode that it was told last. A process that restarted goes on from there.
        """
        await asyncio.sleep(max(0.0, self._settled_at_s - self._clock.now()))
        self._check_leader()
        self._registry.heard_mode(follows)
        if not self._steers:
            self._registry.tell_mode(Mode.HYBRID)
        snapshot = self._registry.snapshot
        while True:
            yield snapshot
            snapshot = await self._next_snapshot(snapshot.version)

    async def _next_snapshot(self, version: int) -> ClusterSnapshot:
        """Raises BatonError UNAVAILABLE when another control plane leads meanwhile."""
        while True:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self._registry.after(version), _LEADER_CHECK_S)
            self._check_leader()

    def _check_leader(self) -> None:
        if leader := self._leadership.term().other:
            raise BatonError(ErrorCode.UNAVAILABLE, f"{leader} leads, not this control plane")

    async def status(self) -> ClusterStatus:
        version = self._registry.snapshot.version
        return ClusterStatus(version, self._registry.status(), self._processes())

    async def order(self, worker_id: str, order: ControlOrder) -> None:
        """As `command`. Raises BatonError, also where another control plane leads."""
        try:
            await self.command(worker_id, order)
        except NotLeader as error:
            raise BatonError(ErrorCode.UNAVAILABLE, str(error)) from error

    async def command(self, worker_id: str, order: ControlOrder) -> None:
        """Hands an order of this leader's term to a live worker; it has obeyed when its info or
        report says so.

        Raises NotLeader, and BatonError: UNAVAILABLE, no such worker is live; INVALID_REQUEST, a
        flip without a role, a migrate without a count, or an order that is no operator's.
        """
        if order.kind is OrderKind.ACK:
            raise BatonError(ErrorCode.INVALID_REQUEST, "an acknowledgement is no order")
        if order.kind is OrderKind.FLIP and order.role is None:
            raise BatonError(ErrorCode.INVALID_REQUEST, "a flip needs a role", param="role")
        if order.kind is OrderKind.MIGRATE and order.count < 1:
            raise BatonError(
                ErrorCode.INVALID_REQUEST, "a migrate needs a count of at least 1", param="count"
            )
        term = await self._leadership.confirm()
        self._registry.order(worker_id, replace(order, term=term))
        self._metrics.counter("baton_control_orders_total", kind=order.kind.value).inc()
        _log.info("order", worker=worker_id, kind=order.kind, role=order.role, count=order.count)

    def process_died(self, worker_id: str, pid: int) -> None:
        """An actuator saw the process end: its worker leaves before its beats expire."""
        if self._registry.remove_process(worker_id, pid):
            _log.info("worker left", worker=worker_id, pid=pid, reason="its process ended")
            self._count_workers()

    async def watch_expiry(self) -> None:
        """Drops silent workers, until cancelled."""
        checked_at_s = self._clock.now()
        while True:
            await asyncio.sleep(EXPIRY_PERIOD_S)
            gap_s = self._clock.now() - checked_at_s
            checked_at_s += gap_s
            if gap_s > _PAUSE_S:
                self._registry.excuse(gap_s)
            self._expire()

    def _apply(self, beat: WorkerBeat, stream: object) -> ControlOrder:
        self._check_leader()
        self._metrics.counter("baton_control_beats_total").inc()
        version = self._registry.version
        info = beat.info
        if not self._registry.beat(beat, stream):
            _log.warning("beat refused", worker=info.worker_id, epoch=info.epoch)
            return DRAIN
        if self._registry.version != version:
            _log.info("worker registered", worker=info.worker_id, role=info.role, at=info.address)
            self._count_workers()
        self._leadership.heard(beat.term)
        term = self._leadership.term().token
        return ControlOrder(OrderKind.ACK, term=term, beat_s=self._registry.wait_s(info.worker_id))

    def _expire(self) -> None:
        expired = self._registry.expire()
        for info in expired:
            self._metrics.counter("baton_control_expired_total").inc()
            _log.warning("worker lost", worker=info.worker_id, reason="its beats stopped")
        if expired:
            self._count_workers()

    def _count_workers(self) -> None:
        counts = self._registry.sizes()
        for role in Role:
            self._metrics.gauge("baton_control_workers", role=role.value).set(counts[role])


class _OrderStream:
    """One Register stream: the answers to its beats, and the orders to its worker in between."""

    def __init__(
        self,
        beats: AsyncIterator[WorkerBeat],
        answer: Callable[[WorkerBeat, object], ControlOrder],
        next_order: Callable[[str, int], Awaitable[ControlOrder]],
    ) -> None:
        self.last: WorkerInfo | None = None
        self._beats = beats
        self._answer = answer
        self._next_order = next_order
        self._outgoing: asyncio.Queue[ControlOrder | None] = asyncio.Queue()
        self._forwarding: asyncio.Task[None] | None = None

    async def orders(self) -> AsyncGenerator[ControlOrder, None]:
        """Until the worker ends its side. Raises what reading the beats raises."""
        reading = asyncio.create_task(self._read())
        try:
            while (order := await self._outgoing.get()) is not None:
                yield order
            await reading
        finally:
            tasks = [task for task in (reading, self._forwarding) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for beat in self._beats:
                self.last = beat.info
                self._outgoing.put_nowait(self._answer(beat, self))
                if self._forwarding is None or self._forwarding.done():
                    self._forwarding = asyncio.create_task(self._forward(beat.info))
        finally:
            self._outgoing.put_nowait(None)

    async def _forward(self, info: WorkerInfo) -> None:
        """Until the worker is not live any more; its next beat begins anew."""
        with contextlib.suppress(BatonError):
            while True:
                self._outgoing.put_nowait(await self._next_order(info.worker_id, info.epoch))
