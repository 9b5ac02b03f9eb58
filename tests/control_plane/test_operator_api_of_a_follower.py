"""Whoever asks a control plane that does not lead is sent to the one that does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from redis.asyncio import Redis

from baton.operator_client import OperatorClient, OperatorError
from control_plane.api.shapes import ActionResult, StatusView
from control_plane.config import ControlConfig
from control_plane.platform import candidate_of
from control_plane.server import ControlServer
from control_plane.state.redis_lease import RedisLeadership
from dashboard.config import DashboardConfig
from dashboard.server import DashboardServer
from runtime.clock import SystemClock
from runtime.lifecycle import free_port
from wire.cluster import WorkerBeat

TOKEN = "operators-only"
LEASE_S = 10.0  # nobody loses it by standing still on a busy host


@contextlib.asynccontextmanager
async def control_plane(
    redis_url: str, name: str, **settings: object
) -> AsyncIterator[ControlServer]:
    given = {
        "port": 0,
        "http_port": free_port(),
        "settle_s": 0.0,
        "identity": name,
        "operator_token": TOKEN,
        **settings,
    }
    config = ControlConfig(**given)  # type: ignore[arg-type]
    async with Redis.from_url(redis_url, socket_timeout=2.0) as redis:
        leadership = RedisLeadership(redis, "test", candidate_of(config), SystemClock(), LEASE_S)
        server = ControlServer(config, SystemClock(), leadership=leadership)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


def url_of(server: ControlServer) -> str:
    return f"http://127.0.0.1:{server.http_port}"


async def test_commands_and_the_dashboard_reach_the_leader_through_a_follower(
    redis_server, beat_of: Callable[..., WorkerBeat]
):
    async with contextlib.AsyncExitStack() as stack:
        leader = await stack.enter_async_context(control_plane(redis_server.url, "a"))
        follower = await stack.enter_async_context(control_plane(redis_server.url, "b"))
        leader.registry.beat(beat_of("decode-0"))
        client = OperatorClient(url_of(follower), TOKEN)
        status = await asyncio.to_thread(client.get, "status", StatusView)
        assert [worker.worker_id for worker in status.workers] == ["decode-0"]
        body = {"reason": "quiet"}
        paused = await asyncio.to_thread(client.post, "actions/pause", body, ActionResult)
        assert paused.outcome == "done" and leader.overrides.is_paused
        assert not follower.overrides.is_paused

        config = DashboardConfig(port=0, gateway_urls="", operator_url=url_of(follower))
        page = DashboardServer(config, SystemClock())
        await page.start()
        stack.push_async_callback(page.stop)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        base_url = f"http://127.0.0.1:{page.port}/api/v1/"
        async with httpx.AsyncClient(
            base_url=base_url, headers=headers, trust_env=False, timeout=60
        ) as http:
            answer = await http.get("status")
            assert [worker["worker_id"] for worker in answer.json()["workers"]] == ["decode-0"]
            assert (await http.post("actions/resume", json={})).status_code == 200
            assert not leader.overrides.is_paused
            assert (await http.get("history", params={"minutes": "5"})).status_code == 200
            async with http.stream("GET", "events") as events:
                async with asyncio.timeout(60):
                    async for line in events.aiter_lines():
                        if "decode-0" in line:
                            break


async def test_a_redirect_keeps_path_and_query_and_a_leader_without_an_address_is_named(
    redis_server,
):
    async with contextlib.AsyncExitStack() as stack:
        leader = await stack.enter_async_context(control_plane(redis_server.url, "a"))
        follower = await stack.enter_async_context(control_plane(redis_server.url, "b"))
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=60))
        answer = await http.get(f"{url_of(follower)}/api/v1/audit?limit=3")
        assert answer.status_code == 307
        assert answer.headers["location"] == f"{url_of(leader)}/api/v1/audit?limit=3"
        assert (await http.get(answer.headers["location"])).json() == {"entries": []}

        await leader.leadership.stop()
        async with asyncio.timeout(60):
            while not follower.leadership.term().is_me:
                await asyncio.sleep(0.01)
        answer = await http.get(f"{url_of(follower)}/api/v1/audit?limit=3")
        assert answer.status_code == 200


async def test_a_leader_that_tells_no_address_is_named(redis_server):
    async with contextlib.AsyncExitStack() as stack:
        everywhere = {"host": "0.0.0.0"}
        await stack.enter_async_context(control_plane(redis_server.url, "first", **everywhere))
        follower = await stack.enter_async_context(control_plane(redis_server.url, "second"))
        client = OperatorClient(url_of(follower), TOKEN)
        with pytest.raises(OperatorError, match="first leads"):
            await asyncio.to_thread(client.get, "status", StatusView)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            assert (await http.get(f"{url_of(follower)}/api/v1/status")).status_code == 503
