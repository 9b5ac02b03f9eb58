"""Routers that share through a real Redis: what they learn, and that its loss loses nothing."""

import asyncio
import contextlib
import itertools
from dataclasses import replace

import pytest
import redis
from scripted_cluster import collect, expected, make_request, until

from router.config import RouterConfig
from router.load import LoadShare
from router.peer_loads import PeerLoads
from router.router import Router
from runtime.clock import SystemClock
from runtime.metrics import GATEWAY_METRICS, Metrics
from wire.messages import RequestTerms


class Replicas:
    """Several routers on one scripted cluster."""

    def __init__(self, cluster, redis_url, names=("r0", "r1", "r2")):
        self.cluster = cluster
        self.metrics = [Metrics(GATEWAY_METRICS) for _ in names]
        self.routers = [
            Router(
                RouterConfig(f"127.0.0.1:{cluster.control.port}", name, redis_url=redis_url),
                SystemClock(),
                metrics,
            )
            for name, metrics in zip(names, self.metrics, strict=True)
        ]

    async def start(self):
        for router in self.routers:
            await router.start()
        await until(lambda: all(router.snapshot().is_ready for router in self.routers))
        num_workers = len(self.cluster.workers)
        await until(lambda: all(_num_live(router) == num_workers for router in self.routers))

    def value(self, index, name):
        return self.metrics[index]._registry.get_sample_value(name)

    def all_have(self, name, value):
        return all(self.value(index, name) == value for index in range(3))

    async def stop(self):
        for router in self.routers:
            await router.stop()
            router.check_integrity()


@pytest.fixture
async def start_replicas(start_cluster, redis_server):
    async with contextlib.AsyncExitStack() as stack:

        async def start(num_prefill=1, num_decode=3):
            replicas = Replicas(await start_cluster(num_prefill, num_decode), redis_server.url)
            stack.push_async_callback(replicas.stop)
            await replicas.start()
            await until(lambda: replicas.all_have("baton_shared_state_peers", 2))
            return replicas

        yield start


def _num_live(router):
    return sum(view.state.value == "live" for view in router.snapshot().workers)


def _seqs(router):
    return {view.worker_id: view.num_seqs for view in router.snapshot().workers}


async def take(router, request):
    tokens = []
    async with contextlib.aclosing(router.generate(request)) as deltas:
        async for delta in deltas:
            tokens += delta.tokens
            last = delta
    return tokens, last


async def test_what_one_router_has_placed_counts_for_the_others_before_any_report(start_replicas):
    replicas = await start_replicas()
    first, second, _ = replicas.routers
    for number, router in enumerate((first, second, first)):
        router.place_outside(f"p{number}", make_request(start=1 + 300 * number))
        await until(lambda number=number: _all_count(replicas, number + 1))
    # Three requests over three idle workers, by two routers: each has one.
    assert [_seqs(first)[name] for name in ("d0", "d1", "d2")] == [1, 1, 1]
    for number, router in enumerate((first, second, first)):
        router.outside.release(f"p{number}")
    await until(lambda: _all_count(replicas, 0))


def _all_count(replicas, expected_seqs):
    return all(_seqs(router)["p0"] == expected_seqs for router in replicas.routers)


async def test_a_prefix_that_one_router_placed_is_found_by_the_others_at_once(start_replicas):
    replicas = await start_replicas()
    request = make_request(num_tokens=320)
    reply = replicas.routers[0].place_outside("a", request)
    await until(lambda: _guess(replicas.routers[2], request) == {"p0", reply.decode.worker_id})


def _guess(router, request):
    match = router._placer._prefix_map.match(request.block_hashes)
    return {name for name, depth in match.held.items() if depth}


async def test_a_session_is_at_home_at_every_router_and_at_one_that_joins_later(
    start_replicas, redis_server
):
    replicas = await start_replicas()
    asked = replace(make_request(num_tokens=12), terms=RequestTerms(session="s"))
    _, last = await take(replicas.routers[0], asked)
    home = last.trace.decode_worker
    await until(lambda: replicas.routers[1]._placer.homes.home("s", SystemClock().now()) == home)
    late = Replicas(replicas.cluster, redis_server.url, ["late"])
    await late.start()
    try:
        homes = late.routers[0]._placer.homes
        await until(lambda: homes.home("s", SystemClock().now()) == home)
    finally:
        await late.stop()


async def test_three_gateways_lose_no_request_when_redis_dies_and_comes_back(
    start_replicas, redis_server
):
    replicas = await start_replicas(2, 3)
    asked, answers, numbers = [], [], itertools.count()
    ends = asyncio.Event()

    async def client(index):
        while not ends.is_set():
            request = make_request(num_tokens=100, max_tokens=6, start=1 + 997 * next(numbers))
            asked.append(request)
            answers.append((request, await take(replicas.routers[index % 3], request)))

    async def more_answers():
        before = len(answers)
        await until(lambda: len(answers) > before + 40 or load.done())

    load = asyncio.gather(*(client(index) for index in range(6)))
    await more_answers()
    redis_server.stop()
    await until(lambda: replicas.all_have("baton_shared_state_up", 0) or load.done())
    await more_answers()
    await asyncio.to_thread(redis_server.start)
    await until(lambda: replicas.all_have("baton_shared_state_up", 1) or load.done())
    await more_answers()
    ends.set()
    await load
    assert len(answers) == len(asked) > 120
    for request, (tokens, _) in answers:
        assert tokens == expected(request)
    await until(lambda: replicas.all_have("baton_shared_state_peers", 2))
    await replicas.cluster.idle()


async def test_a_router_starts_and_serves_where_there_is_no_redis(start_cluster, redis_server):
    redis_server.stop()
    cluster = await start_cluster(1, 1, redis_url=redis_server.url)
    request = make_request()
    tokens, _ = await collect(cluster, request)
    assert tokens == expected(request)
    assert cluster.metric("baton_shared_state_up") == 0


async def test_notes_that_cannot_be_read_are_passed_over(start_replicas, redis_server):
    replicas = await start_replicas()
    with redis.Redis.from_url(redis_server.url) as client:
        for junk in (b"", b"junk", b"\x96\x01\x02"):
            client.xadd("baton:router:v1:placements", {"n": junk})
        client.hset("baton:router:v1:loads:r1", mapping={b"junk": b"junk"})
    replicas.routers[0].place_outside("a", make_request())
    await until(lambda: _all_count(replicas, 1))
    assert replicas.all_have("baton_shared_state_up", 1)


def test_a_url_that_is_no_redis_is_refused_at_once():
    config = RouterConfig("", "r", redis_url="http://x")
    with pytest.raises(ValueError, match="scheme"):
        Router(config, SystemClock(), Metrics(GATEWAY_METRICS))


def test_a_silent_peer_counts_no_more():
    peers, worker = PeerLoads(), ("d0", 1)
    peers.told("a", {worker: LoadShare(2, 100)}, 0.0)
    peers.added("b", worker, LoadShare(1), 1.5)
    peers.added("b", worker, LoadShare(1), 1.5)
    assert peers.totals() == {worker: LoadShare(4, 100)}
    peers.told("b", {}, 1.6)
    peers.forget_silent(2.5)
    assert peers.totals() == {} and peers.num_peers == 1
