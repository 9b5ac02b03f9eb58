"""Leader election in Redis: a key that runs out, and a fencing number that only grows."""

import asyncio
import contextlib

from redis.asyncio import Redis
from redis.exceptions import RedisError

from control_plane.leadership import NotLeader, Term
from runtime.clock import Clock
from runtime.log import get_logger

# Takes the free key or renews its own. KEYS: lease, counter. ARGV: identity, milliseconds, the
# highest number that the caller has seen, which counts where the server lost its own.
# -> holder, number
_TAKE = """
local held = redis.call('HMGET', KEYS[1], 'holder', 'token')
if held[1] and held[1] ~= ARGV[1] then return {held[1], held[2]} end
local token = held[2]
if token and tonumber(token) < tonumber(ARGV[3]) then token = false end
if not token then
  token = math.max(redis.call('INCR', KEYS[2]), tonumber(ARGV[3]) + 1)
  redis.call('SET', KEYS[2], token)
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', token)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {ARGV[1], tostring(token)}
"""
# Whether this holder with this number still has the key; renews it then.
_CONFIRM = """
local held = redis.call('HMGET', KEYS[1], 'holder', 'token')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return held[1] or '' end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return false
"""
_GIVE_BACK = """
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""
_HIGHEST = 1 << 48  # what a number in Lua counts exactly; above is nobody's
_log = get_logger("control_plane")


class RedisLeadership:
    """A `Leadership`. The holder stops acting at 2/3 of the lease, before the key runs out.

    While Redis does not answer nobody leads: nothing is scaled, and serving goes on.
    """

    backend = "redis"

    def __init__(
        self, redis: Redis, prefix: str, identity: str, clock: Clock, lease_s: float = 10.0
    ) -> None:
        self._redis = redis
        self._lease_key = f"{prefix}:leader"
        self._counter_key = f"{prefix}:leader-terms"
        self._identity = identity
        self._clock = clock
        self._lease_s = lease_s
        self._holder = ""
        self._token = 0
        self._heard = 0
        self._renewed_at_s = -float("inf")
        self._take = redis.register_script(_TAKE)
        self._check = redis.register_script(_CONFIRM)
        self._give_back = redis.register_script(_GIVE_BACK)
        self._task: asyncio.Task[None] | None = None

    def term(self) -> Term:
        age_s = self._clock.now() - self._renewed_at_s
        is_me = self._holder == self._identity and age_s < self._lease_s * 2 / 3
        other = "" if self._holder == self._identity else self._holder
        return Term(self._holder, is_me, self._token, age_s if is_me else 0.0, other)

    async def confirm(self) -> int:
        begun_s = self._clock.now()
        try:
            holder = await self._check(
                keys=[self._lease_key], args=[self._identity, self._token, self._lease_ms]
            )
        except (RedisError, OSError) as error:
            raise NotLeader("", f"Redis does not answer: {error}") from error
        if holder is not None:
            self._holder = _text(holder)
            raise NotLeader(self._holder)
        self._renewed_at_s = begun_s
        return self._token

    def heard(self, token: int) -> None:
        if token < _HIGHEST:
            self._heard = max(self._heard, token)

    async def start(self) -> None:
        await self.step()
        self._task = asyncio.create_task(self._run(), name="lease")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(RedisError, OSError):
            await self._give_back(keys=[self._lease_key], args=[self._identity])
        self._holder = ""

    async def step(self) -> None:
        """Takes or renews the key if it may; a Redis that does not answer is logged."""
        was_me = self.term().is_me
        begun_s = self._clock.now()
        try:
            holder, token = await self._take(
                keys=[self._lease_key, self._counter_key],
                args=[self._identity, self._lease_ms, max(self._token, self._heard)],
            )
        except (RedisError, OSError) as error:
            _log.warning("the lease cannot be renewed", reason=str(error))
            return
        self._holder, self._token = _text(holder), int(token)
        if self._holder == self._identity:
            self._renewed_at_s = begun_s
        if self.term().is_me is not was_me:
            _log.info("leadership", holder=self._holder, is_me=not was_me, token=self._token)

    @property
    def _lease_ms(self) -> int:
        return round(self._lease_s * 1000)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 5)
            await self.step()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
