"""Leader election in Redis: a key that runs out, and a fencing number that only grows."""

import asyncio
import contextlib

from redis.asyncio import Redis
from redis.exceptions import RedisError

from control_plane.candidacy import Candidacy
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
    """A `Leadership`. While Redis does not answer nobody leads: nothing is scaled, and serving goes
    on."""

    backend = "redis"

    def __init__(
        self, redis: Redis, prefix: str, identity: str, clock: Clock, lease_s: float = 10.0
    ) -> None:
        self._redis = redis
        self._lease_key = f"{prefix}:leader"
        self._counter_key = f"{prefix}:leader-terms"
        self._clock = clock
        self._lease_s = lease_s
        self._known = Candidacy(identity, clock, lease_s, _HIGHEST)
        self._take = redis.register_script(_TAKE)
        self._check = redis.register_script(_CONFIRM)
        self._give_back = redis.register_script(_GIVE_BACK)
        self._task: asyncio.Task[None] | None = None

    def term(self) -> Term:
        return self._known.term()

    async def confirm(self) -> int:
        begun_s = self._clock.now()
        try:
            holder = await self._check(
                keys=[self._lease_key],
                args=[self._known.identity, self._known.token, self._lease_ms],
            )
        except (RedisError, OSError) as error:
            raise NotLeader("", f"Redis does not answer: {error}") from error
        if holder is not None:
            self._known.sees(_text(holder), self._known.token)
            raise NotLeader(self._known.holder)
        self._known.renewed(begun_s)
        return self._known.token

    def heard(self, token: int) -> None:
        self._known.hears(token)

    async def start(self) -> None:
        await self.step()
        self._task = asyncio.create_task(self._run(), name="lease")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(RedisError, OSError):
            await self._give_back(keys=[self._lease_key], args=[self._known.identity])
        self._known.sees("", self._known.token)

    async def step(self) -> None:
        """Takes or renews the key if it may; a Redis that does not answer is logged."""
        known, was_me, begun_s = self._known, self.term().is_me, self._clock.now()
        try:
            holder, token = await self._take(
                keys=[self._lease_key, self._counter_key],
                args=[known.identity, self._lease_ms, max(known.token, known.heard)],
            )
        except (RedisError, OSError) as error:
            _log.warning("the lease cannot be renewed", reason=str(error))
            return
        known.sees(_text(holder), int(token))
        if known.holder == known.identity:
            known.renewed(begun_s)
        if self.term().is_me is not was_me:
            _log.info("leadership", holder=known.holder, is_me=not was_me, token=known.token)

    @property
    def _lease_ms(self) -> int:
        return round(self._lease_s * 1000)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 5)
            await self.step()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
