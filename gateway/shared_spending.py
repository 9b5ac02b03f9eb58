"""What the tenants spend at other gateways, so that one limit holds for all that share a Redis."""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.gate import Gate
from gateway.rate_limit import Account, Spent
from runtime.log import get_logger

SPENT_KEY = "baton:spent"
_EVERY_S = 0.1
_KEPT_S = 3600  # after the last request
_log = get_logger("gateway")


class SharedSpending:
    """Adds what was spent here to totals in Redis, and takes what others added off the buckets.

    Over a limit a tenant gets at most what all gateways grant in one interval. Without Redis each
    gateway grants the whole limit.
    """

    def __init__(self, url: str, gate: Gate, every_s: float = _EVERY_S) -> None:
        """Raises ValueError for what is no URL of a Redis."""
        self._redis = Redis.from_url(url, socket_timeout=5.0, socket_connect_timeout=5.0)
        self._gate = gate
        self._every_s = every_s
        self._told: dict[str, Spent] = {}  # of this process, by tenant
        self._totals: dict[str, Spent] | None = None  # of all, as last read

    async def follow(self) -> None:
        """Until cancelled."""
        is_lost = False
        while True:
            try:
                await self.exchange()
                is_lost = False
            except (RedisError, OSError) as error:
                if not is_lost:
                    is_lost = True
                    _log.warning("limits count for this gateway alone", reason=str(error))
            await asyncio.sleep(self._every_s)

    async def exchange(self) -> None:
        """Raises RedisError or OSError; what was not told then is told next time."""
        new = {
            account.tenant.name: account.spent - self._told.get(account.tenant.name, Spent())
            for account in self._gate.limited_accounts()
        }
        totals = await self._add({name: spent for name, spent in new.items() if spent != Spent()})
        for name, spent in new.items():
            self._told[name] = self._told.get(name, Spent()) + spent
        before = self._totals
        self._totals = totals
        if before is None:  # what was spent before this process began
            return
        for account in self._gate.limited_accounts():
            name = account.tenant.name
            grown = totals.get(name, Spent()) - before.get(name, Spent())
            _take(account, grown - new.get(name, Spent()))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _add(self, spent: dict[str, Spent]) -> dict[str, Spent]:
        """The totals by tenant, with what is added."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for name, one in spent.items():
                pipe.hincrby(SPENT_KEY, f"requests:{name}", one.requests)
                pipe.hincrby(SPENT_KEY, f"tokens:{name}", one.tokens)
            if spent:
                pipe.expire(SPENT_KEY, _KEPT_S)
            pipe.hgetall(SPENT_KEY)
            *_, entries = await pipe.execute()
        return _totals(entries)


def _take(account: Account, elsewhere: Spent) -> None:
    """Totals that fell have been lost with a Redis: nothing is known of others then."""
    account.spend_elsewhere(Spent(max(0, elsewhere.requests), max(0, elsewhere.tokens)))


def _totals(entries: dict[Any, Any]) -> dict[str, Spent]:
    totals: dict[str, Spent] = {}
    for key, value in entries.items():
        kind, _, name = key.decode().partition(":")
        add = Spent(int(value), 0) if kind == "requests" else Spent(0, int(value))
        totals[name] = totals.get(name, Spent()) + add
    return totals
