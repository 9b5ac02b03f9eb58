"""Two workers in a process of their own that compute nothing: each step is a token of every leg."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import uvloop

from wire import rpc
from wire.kv import FabricAddress, KVHandle
from wire.messages import (
    BlockSnapshot,
    CancelLeg,
    ClientFrame,
    FinishReason,
    LegAccepted,
    LegEvent,
    LegFinished,
    LegPublished,
    LegTokens,
    LegTransferred,
    Role,
    StartLeg,
    WorkerFrame,
    WorkerReport,
)

_REPORT_INTERVAL_S = 0.25
_NUM_BLOCKS = 100_000
_FIRST_TOKEN, _NUM_TOKENS = 300, 1000  # the bundled tokenizer's from here on have text
_HANDLE = KVHandle(b"x" * 16, "p", 1, FabricAddress("127.0.0.1", 1), 16, 30.0)


@dataclass(slots=True)
class _Leg:
    start: StartLeg
    index: int  # of its next token


@dataclass(frozen=True, slots=True)
class Pace:
    """A step each tick_s; a leg gets its first token at once, the others every so many steps."""

    tick_s: float = 0.0
    every: int = 1


AT_ONCE = Pace()


class EmptyWorker:
    """One frame a step carries all legs' tokens, as a worker's does."""

    def __init__(self, role: Role, pace: Pace = AT_ONCE) -> None:
        self._role = role
        self._pace = pace

    async def session(self, frames: AsyncIterator[ClientFrame]) -> AsyncIterator[WorkerFrame]:
        legs: dict[int, _Leg] = {}
        fresh: list[StartLeg] = []
        wake = asyncio.Event()
        reader = asyncio.create_task(_read(frames, legs, fresh, wake))
        yield WorkerFrame(snapshot=BlockSnapshot(0), report=self._report(0, 0))
        reported_s, num_steps = time.monotonic(), 0
        try:
            while True:
                if not legs and not fresh:
                    wake.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(wake.wait(), _REPORT_INTERVAL_S)
                num_steps += 1
                events, report = _step(legs, fresh, num_steps, self._pace.every), None
                if time.monotonic() - reported_s > _REPORT_INTERVAL_S:
                    report, reported_s = self._report(num_steps, len(legs)), time.monotonic()
                if events or report:
                    yield WorkerFrame(tuple(events), report)
                await asyncio.sleep(self._pace.tick_s)
        finally:
            reader.cancel()

    def _report(self, num_steps: int, num_running: int) -> WorkerReport:
        return WorkerReport(
            self._role,
            num_steps,
            num_running=num_running,
            num_blocks=_NUM_BLOCKS,
            num_free_blocks=_NUM_BLOCKS,
        )


def serve(pipe: Connection, pace: Pace = AT_ONCE) -> None:
    """Sends the ports of a prefill and a decode worker, and serves until anything comes back."""

    async def run() -> None:
        ports, servers = [], []
        for role in (Role.PREFILL, Role.DECODE):
            server = rpc.build_server()
            rpc.add_worker_service(server, EmptyWorker(role, pace))
            ports.append(rpc.bind(server, "127.0.0.1", 0))
            await server.start()
            servers.append(server)
        pipe.send(ports)
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await asyncio.gather(*(server.stop(None) for server in servers))

    uvloop.run(run())


async def _read(
    frames: AsyncIterator[ClientFrame],
    legs: dict[int, _Leg],
    fresh: list[StartLeg],
    wake: asyncio.Event,
) -> None:
    async for frame in frames:
        if isinstance(frame, StartLeg):
            fresh.append(frame)
            wake.set()
        elif isinstance(frame, CancelLeg):
            legs.pop(frame.leg_id, None)


def _step(legs: dict[int, _Leg], fresh: list[StartLeg], number: int, every: int) -> list[LegEvent]:
    events: list[LegEvent] = []
    due = [leg_id for leg_id in legs if not (number + leg_id) % every]
    for start in fresh:
        due.append(start.leg_id)
        legs[start.leg_id] = _Leg(start, len(start.output_tokens))
        events.append(LegAccepted(start.leg_id, 0))
        if start.prefill_only:
            events.append(LegPublished(start.leg_id, _HANDLE))
        elif start.handle is not None:
            events.append(LegTransferred(start.leg_id, 1, 0.0, 0.0, "shm"))
    fresh.clear()
    for leg_id in due:
        leg = legs[leg_id]
        events.append(LegTokens(leg_id, leg.index, (_FIRST_TOKEN + leg.index % _NUM_TOKENS,)))
        leg.index += 1
        is_last = leg.index >= leg.start.request.sampling.max_tokens
        if is_last or leg.start.prefill_only:
            reason = FinishReason.LENGTH if is_last else FinishReason.PREFILLED
            events.append(LegFinished(leg_id, reason))
            del legs[leg_id]
    return events
