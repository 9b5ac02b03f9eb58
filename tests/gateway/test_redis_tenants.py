"""Tenants in a real Redis: several gateways read one list, which outlives a Redis that is away."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from gateway.errors import ApiError
from gateway.gate import Gate
from gateway.redis_tenants import TENANTS_KEY, RedisTenants
from gateway.tenant_source import following, open_gate
from gateway.tenants import TenantFileError, key_digest
from runtime.clock import SystemClock


def put(url: str, name: str, key: str, **fields: object) -> None:
    entry = {"name": name, "key_sha256": [key_digest(key)], **fields}
    with redis.Redis.from_url(url) as client:
        client.hset(TENANTS_KEY, name, json.dumps(entry))


def known(gate: Gate, key: str) -> bool:
    try:
        gate.account([(b"x-api-key", key.encode())])
    except ApiError as error:
        assert error.status == 401
        return False
    return True


async def until_known(gate: Gate, key: str, wanted: bool) -> None:
    async with asyncio.timeout(60):
        while known(gate, key) is not wanted:
            await asyncio.sleep(0.01)


@pytest.fixture
async def source(redis_server: Any) -> AsyncIterator[RedisTenants]:
    opened = RedisTenants(redis_server.url, look_every_s=0.02)
    yield opened
    await opened.close()


def test_the_gate_opens_with_the_tenants_that_are_there(redis_server: Any) -> None:
    put(redis_server.url, "acme", "key-a", weight=2.0, models=["tiny"], cache_salt="s")
    gate = open_gate("", redis_server.url, SystemClock())
    tenant = gate.account([(b"x-api-key", b"key-a")]).tenant
    assert (tenant.name, tenant.weight, tenant.cache_salt) == ("acme", 2.0, "s")
    assert tenant.models == {"tiny"}
    assert not known(gate, "key-b")


async def test_a_change_counts_and_an_outage_changes_nothing(
    redis_server: Any, source: RedisTenants
) -> None:
    put(redis_server.url, "acme", "key-a")
    gate = Gate(None, SystemClock(), await source.read())
    task = asyncio.create_task(source.follow(gate))
    try:
        put(redis_server.url, "zeta", "key-z")
        await until_known(gate, "key-z", True)
        with redis.Redis.from_url(redis_server.url) as client:
            client.hset(TENANTS_KEY, "zeta", "no json")
        await asyncio.sleep(0.1)
        assert known(gate, "key-z")
        redis_server.stop()
        await asyncio.sleep(0.1)
        assert known(gate, "key-a")
        redis_server.start()
        put(redis_server.url, "beta", "key-b")
        with redis.Redis.from_url(redis_server.url) as client:
            client.hdel(TENANTS_KEY, "zeta")
        await until_known(gate, "key-b", True)
        await until_known(gate, "key-z", False)
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_following_ends_with_the_server(redis_server: Any) -> None:
    before = len(asyncio.all_tasks())
    async with following(redis_server.url, Gate(None, SystemClock(), {})):
        assert len(asyncio.all_tasks()) == before + 1
    assert len(asyncio.all_tasks()) == before


def test_a_redis_that_is_not_there_is_named(redis_server: Any) -> None:
    redis_server.stop()
    with pytest.raises(TenantFileError, match="the tenants in Redis cannot be read"):
        open_gate("", redis_server.url, SystemClock())
    with pytest.raises(ValueError, match="exclude each other"):
        open_gate("tenants.toml", redis_server.url, SystemClock())


@pytest.mark.parametrize("value", ["no json", "[]", '{"name": "a"}', '{"name": "a", "zzz": 1}'])
async def test_an_entry_that_cannot_be_used_is_refused_with_the_place(
    redis_server: Any, source: RedisTenants, value: str
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.hset(TENANTS_KEY, "a", value)
    with pytest.raises(TenantFileError, match="baton:tenants in Redis"):
        await source.read()
