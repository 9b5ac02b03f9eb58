"""The Worker service: one multiplexed stream per gateway, one frame per engine turn."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

from runtime.clock import Clock
from runtime.log import get_logger
from wire.errors import BatonError, ErrorCode
from wire.messages import (
    PROTOCOL_VERSION,
    CancelLeg,
    ClientFrame,
    ContinueLeg,
    Hello,
    SnapshotRequest,
    StartLeg,
    WorkerFrame,
    WorkerReport,
)
from worker import commands
from worker.outbox import Outbox
from worker.spans import LegSpans

REPORT_INTERVAL_S = 0.25
log = get_logger("worker")


class SessionHub:
    """Fans the engine thread's outboxes out to the sessions; lives on the event loop.

    A session is an unbounded queue of frames: its legs bound it, and one that does not read is
    cut by the transport's keepalive.
    """

    def __init__(
        self,
        post: Callable[[commands.Command], None],
        clock: Clock,
        spans: LegSpans | None = None,
    ) -> None:
        """clock: the engine's, by which legs wait from here on."""
        self._post = post
        self._clock = clock
        self._spans = spans
        self._queues: dict[int, asyncio.Queue[WorkerFrame | None]] = {}
        self._ids = itertools.count(1)
        self.on_news: Callable[[], None] = lambda: None

    def deliver(self, outbox: Outbox) -> None:
        """Called on the loop with what one engine turn brought."""
        report = None
        if outbox.has_news:
            report = outbox.report
            log.info("role", role=report.role, epoch=report.role_epoch, flipping=report.flipping)
            self.on_news()
        block_events = () if outbox.block_event is None else (outbox.block_event,)
        for session_id, frames in self._queues.items():
            events = outbox.events.get(session_id, ())
            snapshot = outbox.snapshots.get(session_id)
            if self._spans is not None:
                self._spans.told(session_id, events)
            if events or snapshot or block_events or report:
                frames.put_nowait(WorkerFrame(tuple(events), report, block_events, snapshot))

    async def send_reports(self, report: Callable[[], WorkerReport]) -> None:
        """Tells every session this worker's load, four times a second, until cancelled."""
        while True:
            frame = WorkerFrame(report=report())
            for frames in self._queues.values():
                frames.put_nowait(frame)
            await asyncio.sleep(REPORT_INTERVAL_S)

    def close(self) -> None:
        """Ends every session."""
        for frames in self._queues.values():
            frames.put_nowait(None)

    async def session(self, frames: AsyncIterator[ClientFrame]) -> AsyncIterator[WorkerFrame]:
        """Answers one gateway until either side ends the stream; then its legs are cancelled."""
        session_id = next(self._ids)
        outgoing: asyncio.Queue[WorkerFrame | None] = asyncio.Queue()
        self._queues[session_id] = outgoing
        reader = asyncio.create_task(self._read(session_id, frames, outgoing))
        try:
            while (frame := await outgoing.get()) is not None:
                yield frame
        finally:
            reader.cancel()
            del self._queues[session_id]
            if self._spans is not None:
                self._spans.left(session_id)
            self._post(commands.Leave(session_id))

    async def _read(
        self,
        session_id: int,
        frames: AsyncIterator[ClientFrame],
        outgoing: "asyncio.Queue[WorkerFrame | None]",
    ) -> None:
        try:
            async for frame in frames:
                if self._spans is not None:
                    self._spans.asked(session_id, frame)
                self._post(_command(session_id, frame, self._clock.now()))
        except BatonError as error:
            log.warning("session_refused", session=session_id, error=error.message)
        finally:
            outgoing.put_nowait(None)


def _command(session_id: int, frame: ClientFrame, now_s: float) -> commands.Command:
    match frame:
        case StartLeg():
            return commands.Start(session_id, frame, now_s)
        case CancelLeg(leg_id):
            return commands.Cancel(session_id, leg_id)
        case ContinueLeg(leg_id, index, tokens):
            return commands.Continue(session_id, leg_id, index, tokens)
        case SnapshotRequest():
            return commands.Snapshot(session_id)
        case Hello(client_id, protocol):
            if protocol != PROTOCOL_VERSION:
                raise BatonError(
                    ErrorCode.INVALID_REQUEST,
                    f"{client_id} speaks protocol {protocol}, this worker {PROTOCOL_VERSION}",
                )
            return commands.Join(session_id)
