"""Where the tenants come from: a file, which the gate reads itself, or a store that is followed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Protocol

from gateway.gate import Gate
from gateway.tenants import Tenant
from runtime.clock import Clock


class TenantSource(Protocol):
    """A store outside of the process; used on one event loop."""

    async def read(self) -> Mapping[str, Tenant]:
        """Tenants by the digest of each of their keys. Raises TenantFileError."""
        ...

    async def follow(self, gate: Gate) -> None:
        """Gives the gate what changes, until cancelled."""
        ...

    async def close(self) -> None: ...


def open_gate(file: str, redis_url: str, clock: Clock, num_processes: int = 1) -> Gate:
    """file, redis_url: one of them or none. num_processes: that share the limits.

    Raises ValueError for both, TenantFileError.
    """
    if file and redis_url:
        raise ValueError("tenants_redis and tenants_file exclude each other")
    if redis_url:
        return Gate(None, clock, asyncio.run(_read(redis_url)), num_processes)
    return Gate(Path(file) if file else None, clock, None, num_processes)


@contextlib.asynccontextmanager
async def following(redis_url: str, gate: Gate) -> AsyncIterator[None]:
    """Meanwhile the gate learns what changes in the store, if there is one."""
    if not redis_url:
        yield
        return
    source = _redis(redis_url)
    task = asyncio.create_task(source.follow(gate))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        await source.close()


@contextlib.asynccontextmanager
async def sharing(redis_url: str, gate: Gate) -> AsyncIterator[None]:
    """Meanwhile limits hold for all gateways of a Redis together, if there is one.

    Raises ValueError for what is no URL of a Redis.
    """
    if not redis_url:
        yield
        return
    from gateway.shared_spending import SharedSpending  # its client is loaded only here

    spending = SharedSpending(redis_url, gate)
    task = asyncio.create_task(spending.follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        await spending.close()


async def _read(redis_url: str) -> Mapping[str, Tenant]:
    source = _redis(redis_url)
    try:
        return await source.read()
    finally:
        await source.close()


def _redis(url: str) -> TenantSource:
    """Its client is loaded only where there is a Redis."""
    from gateway.redis_tenants import RedisTenants

    return RedisTenants(url)
