"""What one leader leaves, the next one goes on with; and what happens while Redis is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_cluster import TOKEN, OperatedCluster
from redis.asyncio import Redis

from control_plane.leadership import Leadership
from control_plane.overrides import Pin
from control_plane.planner.config import PlannerConfig
from control_plane.planner.learned import Learned, LearnedPool
from control_plane.planner.types import Objectives, PoolSizes
from control_plane.state.memory_store import MemoryStore
from control_plane.state.redis_lease import RedisLeadership
from control_plane.state.redis_store import RedisStore
from control_plane.state.standing import Standing, decode_standing, merge
from control_plane.state.store import Entry, Kind, OlderTerm, Outgoing, StandingConflict
from runtime.clock import SystemClock
from wire.cluster import Mode, WorkerBeat

LEASE_S = 10.0  # nobody loses it by standing still on a busy host
TTL_S = 0.6
LEARNED = Learned(Mode.HYBRID, Objectives(), decode=LearnedPool(1.3, 1.4, 0.01, 1_700_000_000.25))
MORE = replace(LEARNED, prefill=LearnedPool(1.2))
BeatOf = Callable[..., WorkerBeat]


@contextlib.asynccontextmanager
async def control_plane(
    url: str,
    beats: list[WorkerBeat],
    leadership: Leadership | None = None,
    ttl_s: float = TTL_S,
) -> AsyncIterator[OperatedCluster]:
    store = RedisStore(url, "test", ttl_s)
    cluster = OperatedCluster(leadership=leadership, store=store, state_ttl_s=ttl_s)
    await cluster.start(beats)
    try:
        yield cluster
    finally:
        await cluster.stop()


@contextlib.asynccontextmanager
async def reading(url: str, ttl_s: float = TTL_S) -> AsyncIterator[RedisStore]:
    """Another process's link to the state."""
    store = RedisStore(url, "test", ttl_s)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def candidate(url: str, name: str) -> AsyncIterator[RedisLeadership]:
    async with Redis.from_url(url) as redis:
        yield RedisLeadership(redis, "test", name, SystemClock(), LEASE_S)


async def done(cluster: OperatedCluster, action: str, **body: object) -> None:
    answer = await cluster.act(action, body)
    assert answer.status_code == 200, answer.text


async def test_a_new_leader_goes_on_with_what_the_old_one_left(redis_server, beat_of: BeatOf):
    url = redis_server.url
    workers = [beat_of("decode-0")]
    async with candidate(url, "a") as a, candidate(url, "b") as b, contextlib.AsyncExitStack() as s:
        first = await s.enter_async_context(control_plane(url, workers, a, ttl_s=60.0))
        second = await s.enter_async_context(control_plane(url, [], b, ttl_s=60.0))
        first.server.lessons.held = LEARNED
        await done(first, "pause")
        await done(first, "pin", prefill=1, decode=2)
        config = PlannerConfig(max_prefill=7)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = await first.http.put("/api/v1/config", json={"max_prefill": 7}, headers=headers)
        assert answer.status_code == 200
        await second.until(lambda: second.plans.current == config)  # by the hint, as a follower
        assert second.server.overrides.is_paused and second.server.lessons.held == LEARNED
        refused = await second.act("resume")
        assert refused.status_code == 503 and "a leads" in refused.text

        await a.stop()
        await second.until(lambda: second.server.shared.may_act)
        assert second.server.serving(), "the workers' records were not taken over"
        assert second.server.lessons.held == LEARNED
        status = await second.get("status")
        assert status["planner"]["pinned"]["decode"] == 2  # type: ignore[index]
        assert status["state"] == "redis"
        decided = (await second.get("decisions"))["decisions"]
        assert [view["at_s"] for view in decided] == [1000.0]  # type: ignore[attr-defined]
        await done(second, "resume")
        audit = (await second.get("audit"))["entries"]
        kept = [(entry["action"], entry["outcome"]) for entry in audit]  # type: ignore[attr-defined]
        assert kept[0] == ("resume", "done") and kept[-3:] == [
            ("config", "done"),
            ("pin", "done"),
            ("pause", "done"),
        ]
        assert audit[0]["id"] > audit[-1]["id"]  # type: ignore[index]
        first.server.lessons.held = MORE  # of a leader that was: it counts nowhere
        await first.until(lambda: first.server.lessons.held == LEARNED)
        assert second.server.lessons.held == LEARNED


async def test_an_outage_longer_than_the_records_live_is_served_through_and_reconciled(
    redis_server, beat_of: BeatOf
):
    async with control_plane(redis_server.url, [beat_of()]) as cluster:
        await done(cluster, "pin", prefill=1, decode=1)
        redis_server.stop()
        cluster.server.lessons.held = LEARNED
        await done(cluster, "pause")  # an operator overrules the planner all the same
        await asyncio.sleep(2 * TTL_S)
        status = await cluster.get("status")
        assert [worker["worker_id"] for worker in status["workers"]] == ["decode-0"]  # type: ignore[attr-defined]
        assert any("the shared state is silent" in note for note in status["notes"])  # type: ignore[attr-defined]
        assert cluster.server.shared.may_act

        redis_server.start()  # with nothing in it
        async with asyncio.timeout(60), reading(redis_server.url) as reader:
            while not (incoming := await reader.exchange(Outgoing())).standing or (
                not await reader.workers()
            ):
                await asyncio.sleep(0.02)
        assert b'"paused_by":"operator@127.0.0.1"' in incoming.standing
        assert b'"sizes":{"prefill":1,"decode":1}' in incoming.standing
        assert decode_standing(incoming.standing)[0].learned == LEARNED
        async with asyncio.timeout(60):
            while sum(b'"pause"' in e.content for e in incoming.entries) != 1:
                async with reading(redis_server.url) as reader:  # from the streams' begin
                    incoming = await reader.exchange(Outgoing())
        assert (await cluster.get("status"))["notes"] == [
            "prefill: prefill-7: no memory for the weights"
        ]


async def test_a_start_without_redis_waits_tells_so_and_acts_once_it_has_read(
    redis_server, beat_of: BeatOf
):
    redis_server.stop()
    async with control_plane(redis_server.url, [beat_of()]) as cluster:
        assert cluster.server.serving(), "workers and gateways are served meanwhile"
        assert not cluster.server.shared.may_act
        notes = (await cluster.get("status"))["notes"]
        assert any("does not act before it has read it" in note for note in notes)  # type: ignore[attr-defined]
        redis_server.start()
        await cluster.until(lambda: cluster.server.shared.may_act)


async def test_a_restarted_control_plane_finds_its_workers_and_its_pause(
    redis_server, beat_of: BeatOf
):
    async with control_plane(redis_server.url, [beat_of()], ttl_s=60.0) as cluster:
        cluster.server.lessons.held = LEARNED
        await done(cluster, "pause")
        await cluster.server.shared.keep()  # the worker's record too
        async with reading(redis_server.url) as reader:
            assert len(await reader.workers()) == 1
    async with reading(redis_server.url, 30.0) as writer:
        await writer.exchange(Outgoing(workers=(beat_of("decode-5"),)))
    async with control_plane(redis_server.url, []) as again:
        assert "decode-5" in again.server.serving()
        assert again.server.lessons.held == LEARNED
        assert again.server.overrides.is_paused


class SlowStore(MemoryStore):
    """Writes when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_write = asyncio.Event(), asyncio.Event()

    async def set_standing(self, content: bytes, seen: int, version: int, token: int) -> None:
        self.begun.set()
        await self.may_write.wait()
        await super().set_standing(content, seen, version, token)


async def test_what_changes_while_the_state_is_written_is_written_next(beat_of: BeatOf):
    store = SlowStore()
    cluster = OperatedCluster(store=store)
    starting = asyncio.create_task(cluster.start([beat_of()]))
    await store.begun.wait()
    cluster.server.overrides.pause("ann")
    cluster.server.lessons.held = LEARNED
    store.may_write.set()
    await starting
    await cluster.server.shared.keep()
    assert cluster.server.overrides.paused_by == "ann"
    standing, _ = decode_standing((await store.exchange(Outgoing())).standing)
    assert (standing.paused_by, standing.learned) == ("ann", LEARNED)
    await cluster.stop()


@pytest.mark.parametrize(
    ("name", "value"),
    [("allowed", 99.0), ("allowed", 0.2), ("share", -1), ("ceiling", "high"), ("share", None)],
)
def test_what_nobody_can_have_learned_is_refused_and_the_pause_beside_it_holds(
    name: str, value: object
):
    content = msgspec.json.decode(msgspec.json.encode(Standing("ann", learned=LEARNED)))
    content["learned"]["decode"][name] = value
    standing, problem = decode_standing(msgspec.json.encode(content))
    assert (standing.paused_by, standing.learned) == ("ann", None)
    assert "what was learned" in problem and name in problem


async def test_only_the_latest_term_writes_and_only_over_what_it_has_read(redis_server):
    store = RedisStore(redis_server.url, "test", TTL_S)
    await store.set_standing(b"one", seen=0, version=1, token=2)
    with pytest.raises(StandingConflict):
        await store.set_standing(b"two", seen=0, version=1, token=2)
    with pytest.raises(OlderTerm):
        await store.set_standing(b"two", seen=1, version=2, token=1)
    await store.set_standing(b"two", seen=1, version=2, token=3)
    assert (await store.exchange(Outgoing())).standing == b"two"
    await store.close()


async def test_streams_are_capped_and_read_once(redis_server):
    writer, reader = (RedisStore(redis_server.url, "test", TTL_S) for _ in range(2))
    entries = tuple(Entry(Kind.DECISION, b"%d" % number) for number in range(700))
    await writer.exchange(Outgoing(entries=entries))
    assert [e.content for e in (await reader.exchange(Outgoing())).entries][:1] == [b"200"]
    assert (await reader.exchange(Outgoing())).entries == ()
    await writer.close()
    await reader.close()


standings = st.builds(
    Standing,
    paused_by=st.sampled_from(["", "ann", "bob"]),
    pin=st.sampled_from([None, Pin(PoolSizes(1, 1), "ann", 1.0)]),
    config=st.sampled_from([None, PlannerConfig(), PlannerConfig(max_prefill=2)]),
    learned=st.sampled_from([None, LEARNED, MORE]),
)


@given(base=standings, mine=standings, theirs=standings)
def test_no_change_is_lost_unless_both_changed_the_same(base, mine, theirs):
    merged = merge(base, mine, theirs)
    for name in ("paused_by", "pin", "config", "learned"):
        values = [getattr(one, name) for one in (base, mine, theirs, merged)]
        assert values[3] == (values[1] if values[1] != values[0] else values[2])
