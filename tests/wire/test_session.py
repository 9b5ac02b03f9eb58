"""A gateway's end of a session, against gRPC's own server."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from wire import rpc
from wire.bidi_call import CallError
from wire.errors import BatonError, ErrorCode
from wire.messages import (
    CancelLeg,
    ClientFrame,
    ContinueLeg,
    FinishReason,
    GenerateRequest,
    Hello,
    LegFinished,
    LegTokens,
    SamplingParams,
    SnapshotRequest,
    StartLeg,
    WorkerFrame,
)
from wire.session import SessionCall, open_session

WAIT_S = 30.0


class PlayedWorker:
    """Answers a cancel with its leg's end, a continuation with its tokens; ends or fails if told.

    Hello: `num_floods` frames come at once.
    """

    def __init__(self) -> None:
        self.num_left = 0  # sessions that have ended here
        self.num_floods = 0

    async def session(self, frames: AsyncIterator[ClientFrame]) -> AsyncIterator[WorkerFrame]:
        try:
            async for frame in frames:
                if isinstance(frame, CancelLeg):
                    yield WorkerFrame((LegFinished(frame.leg_id, FinishReason.CANCELLED),))
                elif isinstance(frame, ContinueLeg):
                    yield WorkerFrame((LegTokens(frame.leg_id, frame.index, frame.tokens),))
                elif isinstance(frame, Hello):
                    for number in range(self.num_floods):
                        yield WorkerFrame((LegTokens(number, 0, (1, 2, 3)),))
                elif isinstance(frame, SnapshotRequest):
                    return
                else:
                    raise BatonError(ErrorCode.INTERNAL, "played")
        finally:
            self.num_left += 1


@pytest.fixture
def worker() -> PlayedWorker:
    return PlayedWorker()


@pytest.fixture
async def address(worker: PlayedWorker) -> AsyncIterator[str]:
    server = rpc.build_server("secret")
    rpc.add_worker_service(server, worker)
    port = rpc.bind(server, "127.0.0.1", 0)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


class Frames:
    """What came of a session."""

    def __init__(self) -> None:
        self.all: list[WorkerFrame] = []
        self._came = asyncio.Event()

    def take(self, frame: WorkerFrame) -> None:
        self.all.append(frame)
        self._came.set()

    async def until(self, count: int) -> list[WorkerFrame]:
        async with asyncio.timeout(WAIT_S):
            while len(self.all) < count:
                self._came.clear()
                await self._came.wait()
        return self.all


async def ended(session: SessionCall) -> None:
    async with asyncio.timeout(WAIT_S):
        await asyncio.wait({session.ended})
    await session.ended


async def test_a_session_carries_frames_both_ways_in_order(address: str) -> None:
    frames = Frames()
    session = await open_session(address, frames.take, "secret")
    for leg_id in range(200):
        session.send(CancelLeg(leg_id))
    events = [frame.events[0] for frame in await frames.until(200)]
    assert events == [LegFinished(leg_id, FinishReason.CANCELLED) for leg_id in range(200)]
    session.close()


async def test_frames_larger_than_the_windows_of_http2_go_both_ways(address: str) -> None:
    frames = Frames()
    tokens = tuple(range(1_000_000))
    session = await open_session(address, frames.take, "secret")
    session.send(ContinueLeg(1, 7, tokens))
    session.send(CancelLeg(2))
    first, second = await frames.until(2)
    assert first.events == (LegTokens(1, 7, tokens),)
    assert second.events[0].leg_id == 2
    session.close()


async def test_many_small_frames_outlast_the_first_window(
    address: str, worker: PlayedWorker
) -> None:
    worker.num_floods = 3_000
    frames = Frames()
    session = await open_session(address, frames.take, "secret")
    session.send(Hello("client"))
    assert len(await frames.until(3_000)) == 3_000
    session.close()


async def test_a_worker_that_ends_the_session_ends_it_with_ok(address: str) -> None:
    session = await open_session(address, lambda frame: None, "secret")
    session.send(SnapshotRequest())
    await ended(session)


async def test_without_the_cluster_token_the_session_is_refused(address: str) -> None:
    session = await open_session(address, lambda frame: None, "wrong")
    with pytest.raises(CallError, match="UNAUTHENTICATED: .*cluster token"):
        await ended(session)


async def test_closing_ends_the_session_at_the_worker(address: str, worker: PlayedWorker) -> None:
    frames = Frames()
    session = await open_session(address, frames.take, "secret")
    session.send(CancelLeg(1))
    await frames.until(1)
    session.close()
    session.close()
    with pytest.raises(CallError, match="CANCELLED"):
        await ended(session)
    async with asyncio.timeout(WAIT_S):
        while not worker.num_left:
            await asyncio.sleep(0.01)


async def test_whoever_hears_of_frames_may_fail_and_ends_the_session(address: str) -> None:
    def refuse(frame: WorkerFrame) -> None:
        raise KeyError("unheard of")

    session = await open_session(address, refuse, "secret")
    session.send(CancelLeg(1))
    with pytest.raises(KeyError, match="unheard of"):
        await ended(session)


async def test_nobody_there_is_an_error_that_names_the_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(CallError, match=f"UNAVAILABLE: no connection to {address}"):
            await open_session(address, lambda frame: None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak gRPC"),
        (b"", "the connection was lost"),
        (b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x02", "HTTP/2 error 2"),
        (b"\x00\x00\x0b\x07" + b"\0" * 9 + b"\0\0\0\x0bbye", "the peer goes away: bye"),
        (b"\x00\x00\x06\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00\x01x", "compressed"),
    ],
)
async def test_a_peer_that_speaks_something_else_ends_the_session(
    answer: bytes, reason: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(24)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        session = await open_session(f"127.0.0.1:{port}", lambda frame: None)
        with pytest.raises(CallError, match=reason):
            await ended(session)


async def test_a_worker_that_fails_says_so_in_the_trailers_of_its_answer(
    address: str,
) -> None:
    session = await open_session(address, lambda frame: None, "secret")
    session.send(StartLeg(1, GenerateRequest("r", (1,), SamplingParams(max_tokens=1), ())))
    with pytest.raises(CallError, match="UNKNOWN: "):
        await ended(session)
