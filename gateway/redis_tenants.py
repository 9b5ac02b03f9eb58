"""The tenants of several gateways in one place: a hash in Redis."""

import asyncio
from collections.abc import Mapping

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.gate import Gate
from gateway.tenants import Tenant, TenantFileError, tenants_of
from runtime.log import get_logger

TENANTS_KEY = "baton:tenants"
_LOOK_EVERY_S = 1.0
_log = get_logger("gateway")


class RedisTenants:
    """Reads `baton:tenants`: by each tenant's name, JSON of what a [[tenants]] table has."""

    def __init__(self, url: str, look_every_s: float = _LOOK_EVERY_S) -> None:
        """Raises ValueError for what is no URL of a Redis."""
        self._redis = Redis.from_url(url, socket_timeout=5.0, socket_connect_timeout=5.0)
        self._look_every_s = look_every_s

    async def read(self) -> Mapping[str, Tenant]:
        """Tenants by the digest of each of their keys. Raises TenantFileError."""
        try:
            entries = await self._redis.hgetall(TENANTS_KEY)
        except (RedisError, OSError) as error:
            raise TenantFileError(f"the tenants in Redis cannot be read: {error}") from error
        try:
            tables = [msgspec.json.decode(value) for _, value in sorted(entries.items())]
        except msgspec.DecodeError as error:
            raise TenantFileError(f"{TENANTS_KEY} in Redis: {error}") from error
        return tenants_of({"tenants": tables}, f"{TENANTS_KEY} in Redis")

    async def follow(self, gate: Gate) -> None:
        """Gives the gate what changes, until cancelled. Without Redis the tenants stay, and also
        with an empty one: a server that starts again without its data shuts nobody out.
        """
        is_lost = False
        while True:
            await asyncio.sleep(self._look_every_s)
            try:
                tenants = await self.read()
                if not tenants:
                    raise TenantFileError(f"{TENANTS_KEY} in Redis is empty")
                gate.take(tenants)
            except TenantFileError as error:
                if not is_lost:
                    _log.warning("the tenants stay as they were", reason=str(error))
                is_lost = True
            else:
                is_lost = False

    async def close(self) -> None:
        await self._redis.aclose()
