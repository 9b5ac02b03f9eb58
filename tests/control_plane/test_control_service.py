"""The control plane over real gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from control_plane.config import ControlConfig
from control_plane.server import ControlServer
from control_plane.service import ACK, DRAIN
from runtime.clock import Clock, SystemClock, VirtualClock
from runtime.lifecycle import free_port
from wire import rpc
from wire.cluster import ControlOrder, OrderKind, ProcessStatus, WorkerBeat
from wire.messages import Role
from worker.registration import Registration

BeatOf = Callable[..., WorkerBeat]


@contextlib.asynccontextmanager
async def serving(
    clock: Clock | None = None, **changes: object
) -> AsyncIterator[tuple[ControlServer, rpc.Channel]]:
    settings = {"port": 0, "settle_s": 0.0, **changes}
    config = ControlConfig(**settings)  # type: ignore[arg-type]
    server = ControlServer(config, clock or SystemClock())
    await server.start()
    channel = rpc.open_channel(f"127.0.0.1:{server.port}")
    try:
        yield server, channel
    finally:
        await channel.close()
        await server.stop()


class Beating:
    """A worker's side of a Register stream, one beat at a time."""

    def __init__(self, channel: rpc.Channel, token: str = "") -> None:
        self._beats: asyncio.Queue[WorkerBeat | None] = asyncio.Queue()
        self.orders = rpc.register(channel, self._stream(), token)

    async def beat(self, beat: WorkerBeat) -> ControlOrder:
        self._beats.put_nowait(beat)
        return await anext(self.orders)

    async def say_goodbye(self) -> None:
        self._beats.put_nowait(None)
        async for _ in self.orders:
            pass

    async def _stream(self) -> AsyncIterator[WorkerBeat]:
        while (beat := await self._beats.get()) is not None:
            yield beat


async def test_a_watcher_sees_a_worker_come_and_leave_at_its_goodbye(beat_of: BeatOf):
    async with serving() as (_, channel):
        snapshots = rpc.watch(channel, "gateway")
        assert (await anext(snapshots)).workers == ()
        worker = Beating(channel)
        assert await worker.beat(beat_of()) == ACK
        assert (await anext(snapshots)).workers == (beat_of().info,)
        await worker.say_goodbye()
        assert (await anext(snapshots)).workers == ()
        await snapshots.aclose()


async def test_a_broken_stream_keeps_the_worker_until_its_beats_expire(beat_of: BeatOf):
    clock = VirtualClock()
    async with serving(clock, beat_timeout_s=1.0) as (server, channel):
        other = rpc.open_channel(f"127.0.0.1:{server.port}")
        worker = Beating(other)
        await worker.beat(beat_of())
        snapshots = rpc.watch(channel, "gateway")
        assert len((await anext(snapshots)).workers) == 1
        await worker.orders.aclose()
        await other.close()
        clock.advance(0.9)
        assert server.registry.expire() == ()
        gone = asyncio.ensure_future(anext(snapshots))
        async with asyncio.timeout(60):
            while not gone.done():  # in small steps: a jump is a pause of this process, and excused
                clock.advance(0.02)
                await asyncio.sleep(0.01)
        assert (await gone).workers == ()
        assert b"baton_control_expired_total 1.0" in server.metrics.exposition()
        await snapshots.aclose()


async def test_a_worker_whose_stream_broke_comes_back_on_another_one(beat_of: BeatOf):
    async with serving() as (server, channel):
        first = Beating(channel)
        await first.beat(beat_of())
        version = server.registry.snapshot.version
        await first.orders.aclose()
        second = Beating(channel)
        assert await second.beat(beat_of()) == ACK
        assert server.registry.snapshot.version == version
        await second.say_goodbye()


async def test_a_worker_is_asked_to_beat_as_rarely_as_the_clusters_size_allows(beat_of: BeatOf):
    async with serving() as (server, channel):
        for number in range(299):
            server.registry.beat(beat_of(f"decode-{number}"))
        worker = Beating(channel)
        assert 0.2 < (await worker.beat(beat_of("decode-299"))).beat_s < 2.3
        await worker.say_goodbye()


async def test_a_worker_beats_when_its_last_answer_asked_it_to(beat_of: BeatOf):
    asked = ControlOrder(OrderKind.ACK, beat_s=0.01)
    enough = asyncio.Event()

    class Hurried:
        """Hears one worker; every answer asks for the next beat at once."""

        async def register(self, beats: AsyncIterator[WorkerBeat]) -> AsyncIterator[ControlOrder]:
            heard = 0
            async for _ in beats:
                heard += 1
                if heard == 60:  # a minute's, at a worker's own second
                    enough.set()
                yield asked

    server = rpc.build_server()
    rpc.add_control_service(server, Hurried())  # type: ignore[arg-type]
    port = rpc.bind(server, "127.0.0.1", 0)
    await server.start()
    registration = Registration(f"127.0.0.1:{port}", "", beat_of, lambda order: None)
    beating = asyncio.create_task(registration.run())
    async with asyncio.timeout(30):
        await enough.wait()
    await registration.leave(beating)
    await server.stop(None)


async def test_a_worker_that_broke_off_is_gone_after_the_base_timeout_in_a_large_cluster(
    beat_of: BeatOf,
):
    async with serving(beat_timeout_s=0.6) as (server, channel):
        for number in [*range(1500), *range(1500)]:  # who beat first was told of a small one
            server.registry.beat(beat_of(f"other-{number}"))
        other = rpc.open_channel(f"127.0.0.1:{server.port}")
        worker = Beating(other)
        await worker.beat(beat_of("decode-0"))
        await worker.orders.aclose()
        await other.close()
        async with asyncio.timeout(30):
            while "decode-0" in server.serving():
                await asyncio.sleep(0.05)
        assert len(server.serving()) == 1500


async def test_the_old_process_of_a_replaced_worker_is_told_to_drain(beat_of: BeatOf):
    async with serving() as (server, channel):
        old, new = Beating(channel), Beating(channel)
        await old.beat(beat_of(epoch=1))
        await new.beat(beat_of(epoch=2))
        assert await old.beat(beat_of(epoch=1)) == DRAIN
        await old.say_goodbye()
        assert [worker.epoch for worker in server.registry.snapshot.workers] == [2]
        await new.say_goodbye()


async def test_a_dead_process_leaves_without_waiting_for_its_beats(beat_of: BeatOf):
    async with serving() as (server, channel):
        worker = Beating(channel)
        await worker.beat(beat_of(pid=99))
        server.plane.process_died("decode-0", 98)
        assert len(server.registry.snapshot.workers) == 1
        server.plane.process_died("decode-0", 99)
        assert server.registry.snapshot.workers == ()
        await worker.orders.aclose()


async def test_the_status_tells_workers_and_kept_processes(beat_of: BeatOf):
    kept = (ProcessStatus("decode-0", "decode", 99, "running", 1, 2.5),)
    server = ControlServer(ControlConfig(port=0), SystemClock(), lambda: kept)
    await server.start()
    channel = rpc.open_channel(f"127.0.0.1:{server.port}")
    worker = Beating(channel)
    await worker.beat(beat_of())
    status = await rpc.fetch_status(channel)
    assert status.processes == kept
    assert [entry.info for entry in status.workers] == [beat_of().info]
    assert status.workers[0].report.num_running == 3
    await worker.say_goodbye()
    await channel.close()
    await server.stop()


async def test_a_restarted_control_plane_hears_beats_before_it_shows_a_snapshot(beat_of: BeatOf):
    async with serving(settle_s=0.5) as (_, channel):
        snapshots = rpc.watch(channel, "gateway")
        first = asyncio.ensure_future(anext(snapshots))
        worker = Beating(channel)
        await worker.beat(beat_of())
        assert [info.worker_id for info in (await first).workers] == ["decode-0"]
        await snapshots.aclose()
        await worker.say_goodbye()


async def test_calls_without_the_cluster_token_are_refused(beat_of: BeatOf):
    async with serving(cluster_token="secret") as (server, channel):
        with pytest.raises(rpc.RpcError, match="cluster token"):
            await rpc.fetch_status(channel, timeout_s=60)
        with pytest.raises(rpc.RpcError, match="cluster token"):
            await Beating(channel, "wrong").beat(beat_of())
        assert server.registry.snapshot.workers == ()
        assert (await rpc.fetch_status(channel, "secret", 60)).workers == ()


async def test_the_health_service_says_serving():
    async with serving() as (_, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_metrics_are_served_over_http_when_a_port_is_given(beat_of: BeatOf):
    port = free_port()
    async with serving(metrics_port=port) as (_, channel):
        worker = Beating(channel)
        await worker.beat(beat_of())
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/metrics")
            missing = await client.get(f"http://127.0.0.1:{port}/other")
        assert 'baton_control_workers{role="decode"} 1.0' in answer.text
        assert missing.status_code == 404
        await worker.say_goodbye()


async def test_a_taken_port_is_named():
    async with serving() as (server, _):
        second = ControlServer(ControlConfig(port=server.port), SystemClock())
        with pytest.raises(OSError, match=str(server.port)):
            await second.start()
        await second.stop()


async def test_an_order_reaches_the_worker_between_two_beats(beat_of: BeatOf):
    async with serving() as (_, channel):
        worker = Beating(channel)
        assert await worker.beat(beat_of(worker_id="w")) == ACK
        flip = ControlOrder(OrderKind.FLIP, Role.PREFILL)
        await rpc.send_order(channel, "w", flip)
        async with asyncio.timeout(60):
            assert await anext(worker.orders) == flip
        await worker.say_goodbye()


async def test_an_order_waits_for_nobody_but_the_process_that_it_was_given_to(beat_of: BeatOf):
    async with serving() as (_, channel):
        old, new = Beating(channel), Beating(channel)
        assert await old.beat(beat_of(worker_id="w", epoch=1)) == ACK
        assert await new.beat(beat_of(worker_id="w", epoch=2)) == ACK
        migrate = ControlOrder(OrderKind.MIGRATE, count=3)
        await rpc.send_order(channel, "w", migrate)
        async with asyncio.timeout(60):
            assert await anext(new.orders) == migrate
        assert await old.beat(beat_of(worker_id="w", epoch=1)) == DRAIN
        await new.say_goodbye()
        await old.orders.aclose()


@pytest.mark.parametrize(
    ("worker_id", "order", "status"),
    [
        ("nobody", ControlOrder(OrderKind.DRAIN), grpc.StatusCode.NOT_FOUND),
        ("w", ControlOrder(OrderKind.FLIP), grpc.StatusCode.INVALID_ARGUMENT),
        ("w", ControlOrder(OrderKind.MIGRATE), grpc.StatusCode.INVALID_ARGUMENT),
        ("w", ACK, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_an_order_that_cannot_be_given_is_refused_with_its_reason(
    worker_id: str, order: ControlOrder, status: grpc.StatusCode, beat_of: BeatOf
):
    async with serving() as (_, channel):
        worker = Beating(channel)
        assert await worker.beat(beat_of(worker_id="w")) == ACK
        with pytest.raises(rpc.RpcError) as refused:
            await rpc.send_order(channel, worker_id, order)
        assert refused.value.code() is status
        await worker.say_goodbye()
