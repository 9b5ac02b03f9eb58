"""State in Redis, for several control planes or for one that starts again.

PREFIX:standing      a hash: content, version and the highest token that wrote
PREFIX:decisions     a stream capped at 500, PREFIX:audit one capped at 1000
PREFIX:worker:ID     a hash with the worker's last record; runs out by itself
PREFIX:workers       the ids of those, also of some that have run out
PREFIX:news          a channel; who hears it looks, and who misses it looks a second later
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from control_plane.state.store import (
    Entry,
    Incoming,
    Kind,
    OlderTerm,
    Outgoing,
    StandingConflict,
    StoreSilent,
)
from wire.cluster import WorkerBeat
from wire.cluster_codec import beat_bytes, beat_of_bytes

_LENGTHS = {Kind.DECISION: 500, Kind.AUDIT: 1000}
_TIMEOUT_S = 2.0
# KEYS: standing, news. ARGV: version seen, version to write, token, content.
_SET = """
local held = redis.call('HMGET', KEYS[1], 'version', 'token')
if tonumber(held[2] or '0') > tonumber(ARGV[3]) then return 'older' end
if tonumber(held[1] or '0') ~= tonumber(ARGV[1]) then return 'conflict' end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'token', ARGV[3], 'content', ARGV[4])
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 'set'
"""


class RedisStore:
    """A `StateStore`. ttl_s: after how long a record that nobody renews is gone.

    Raises ValueError for a URL that is none of Redis.
    """

    name = "redis"

    def __init__(self, url: str, prefix: str, ttl_s: float) -> None:
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._prefix = prefix
        self._ttl_ms = round(ttl_s * 1000)
        self._after = dict.fromkeys(Kind, b"0-0")
        self._set = self._redis.register_script(_SET)
        self._pubsub: PubSub | None = None

    async def exchange(self, outgoing: Outgoing) -> Incoming:
        pipe = self._redis.pipeline(transaction=False)
        pipe.hmget(self._key("standing"), ["content", "version"])
        for kind in Kind:
            pipe.xrange(self._key(kind.value), min=b"(" + self._after[kind])
        for entry in outgoing.entries:
            stream, length = self._key(entry.kind.value), _LENGTHS[entry.kind]
            pipe.xadd(stream, {"json": entry.content}, maxlen=length, approximate=False)
        if outgoing.entries:
            pipe.publish(self._key("news"), "entries")
        self._keep_workers(pipe, outgoing)
        with _telling():
            (content, version), *streams = await pipe.execute()
        found = [
            self._entry(kind, position, fields)
            for kind, stream in zip(Kind, streams[: len(Kind)], strict=True)
            for position, fields in stream
        ]
        return Incoming(content or b"", int(version or 0), tuple(found))

    async def set_standing(self, content: bytes, seen: int, version: int, token: int) -> None:
        keys = [self._key("standing"), self._key("news")]
        with _telling():
            answer = await self._set(keys=keys, args=[seen, version, token, content])
        if answer == b"older":
            raise OlderTerm
        if answer == b"conflict":
            raise StandingConflict

    async def workers(self) -> tuple[WorkerBeat, ...]:
        with _telling():
            ids = [_text(name) for name in await self._redis.smembers(self._key("workers"))]
            pipe = self._redis.pipeline(transaction=False)
            for worker_id in ids:
                pipe.hget(self._worker(worker_id), "beat")
            records = await pipe.execute() if ids else []
            lost = [name for name, record in zip(ids, records, strict=True) if record is None]
            if lost:
                await self._redis.srem(self._key("workers"), *lost)
        return tuple(beat_of_bytes(record) for record in records if record is not None)

    async def hint(self, timeout_s: float) -> None:
        try:
            if self._pubsub is None:
                self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
                await self._pubsub.subscribe(self._key("news"))
            async with asyncio.timeout(timeout_s):
                while await self._pubsub.get_message(timeout=timeout_s) is None:
                    pass
        except TimeoutError:
            return
        except (RedisError, OSError):
            await self._unsubscribe()
            await asyncio.sleep(timeout_s)

    async def close(self) -> None:
        await self._unsubscribe()
        await self._redis.aclose()

    def _keep_workers(self, pipe: Any, outgoing: Outgoing) -> None:
        for beat in outgoing.workers:
            info = beat.info
            key = self._worker(info.worker_id)
            shown = {"role": info.role.value, "address": info.address, "epoch": info.epoch}
            pipe.hset(key, mapping={"beat": beat_bytes(beat), **shown})
            pipe.pexpire(key, self._ttl_ms)
        if outgoing.workers:
            pipe.sadd(self._key("workers"), *(beat.info.worker_id for beat in outgoing.workers))
        if outgoing.gone:
            pipe.delete(*(self._worker(worker_id) for worker_id in outgoing.gone))
            pipe.srem(self._key("workers"), *outgoing.gone)

    def _entry(self, kind: Kind, position: bytes, fields: dict[bytes, bytes]) -> Entry:
        self._after[kind] = position
        return Entry(kind, fields[b"json"])

    async def _unsubscribe(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with contextlib.suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]  # not in its stubs

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    def _worker(self, worker_id: str) -> str:
        return f"{self._prefix}:worker:{worker_id}"


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreSilent(f"Redis does not answer: {error}") from error


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
