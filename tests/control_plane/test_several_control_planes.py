"""Workers and watchers follow the leader, and stay where they are while the store is silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from redis.asyncio import Redis

from control_plane.config import ControlConfig
from control_plane.server import ControlServer
from control_plane.state.redis_lease import RedisLeadership
from router.config import RouterConfig
from router.watch import ClusterWatch
from runtime.clock import SystemClock, VirtualClock
from wire.cluster import WorkerBeat, WorkerInfo
from worker.registration import Registration

LEASE_S = 10.0  # by a clock that the test moves: nobody loses it by standing still


@contextlib.asynccontextmanager
async def control_planes(url: str, clock: VirtualClock) -> AsyncIterator[list[ControlServer]]:
    """Two; the first leads. Leases end by `clock`."""
    servers: list[ControlServer] = []
    async with contextlib.AsyncExitStack() as stack:
        for name in "ab":
            redis = await stack.enter_async_context(Redis.from_url(url))
            leadership = RedisLeadership(redis, "test", name, clock, LEASE_S)
            config = ControlConfig(port=0, settle_s=0.0, http_port=-1)
            server = ControlServer(config, SystemClock(), leadership=leadership)
            await server.start()
            servers.append(server)
        yield servers
        for server in servers:
            await server.stop()


async def until(wanted: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not wanted():
            await asyncio.sleep(0.01)


async def test_workers_and_gateways_move_to_the_leader_and_survive_the_stores_absence(
    redis_server, beat_of: Callable[..., WorkerBeat]
):
    clock = VirtualClock()
    async with control_planes(redis_server.url, clock) as (first, second):
        both = f"127.0.0.1:{second.port},127.0.0.1:{first.port}"  # the follower comes first
        registration = Registration(both, "", beat_of, lambda order: None)
        beating = asyncio.create_task(registration.run())
        seen: list[tuple[WorkerInfo, ...]] = []
        config = RouterConfig(control_address=both, client_id="gateway")
        watch = ClusterWatch(config, lambda workers, mode: seen.append(tuple(workers)))
        watch.start()
        await until(lambda: first.serving() and seen and seen[-1])
        assert not second.serving()
        seen.clear()
        seen.append(tuple(first.registry.snapshot.workers))

        redis_server.stop()  # nobody leads; beats and watchers stay
        clock.advance(2 * LEASE_S)
        assert not first.leadership.term().is_me
        await asyncio.sleep(1.5)  # beats come meanwhile
        assert first.serving() and seen[-1]
        redis_server.start()
        await until(lambda: first.leadership.term().is_me or second.leadership.term().is_me)

        leader = first if first.leadership.term().is_me else second
        follower = second if leader is first else first
        await leader.leadership.stop()
        await until(lambda: follower.leadership.term().is_me)
        await leader.leadership.start()
        await until(lambda: follower.serving())
        await until(lambda: watch.is_connected)
        assert all(seen), "a gateway saw an empty cluster"
        await watch.stop()
        await registration.leave(beating)
