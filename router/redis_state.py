"""Router replicas share placements and loads through Redis; no decision waits for it.

    PREFIX:placements   a bounded stream: who placed what where, read by all as it comes
    PREFIX:shares       a short stream: a router's shares by worker, when they have changed
    PREFIX:loads:ID     a hash of the same, for who missed that; 2 s to live
    PREFIX:routers      the routers of the last 2 s, scored by Redis's own clock

What is lost with Redis is only what nobody but the routers knows: guesses of 2 s, shares of the
last reports, homes of sessions. The workers tell everything else to every router.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from router.load import NO_SHARE, LoadShare
from router.peer_loads import PeerLoads, WorkerKey
from router.replica import PlacementNote, Replica
from runtime.clock import Clock
from runtime.log import get_logger
from runtime.metrics import Metrics

_PREFIX = "baton:router:v1"
_STREAM = f"{_PREFIX}:placements"
_ROUTERS = f"{_PREFIX}:routers"
_SHARES = f"{_PREFIX}:shares"
_STREAM_LENGTH = 2000
_SHARES_LENGTH = 200
_PERIOD_S, _WORKER_S = 0.005, 0.0003  # between two looks at own shares, at least; for each worker
_NEWS_S = 0.02  # the next account of an older note's writer has it as well
_TRADE_S = 0.5
_FRESH_S = 0.5  # an older entry of a stream tells nothing of the load
_TTL_MS = 2000
_READ_WAIT_MS = 1000
_TIMEOUT_S = 3.0
_MAX_UNSENT = 4096
_MAX_HASHES = 1024
_RETRY_MIN_S, _RETRY_MAX_S = 0.1, 2.0
_STOP_AGAIN_S = 0.2
_log = get_logger("router")


class _WireNote(msgspec.Struct, frozen=True, array_like=True):
    """A router.replica.PlacementNote and who wrote it."""

    router: str
    workers: tuple[str, ...]
    hashes: tuple[int, ...]
    session: str
    home: str
    shares: tuple[tuple[str, int, tuple[int, ...]], ...]


class _WireShares(msgspec.Struct, frozen=True, array_like=True):
    """All of a router's shares that are not zero."""

    router: str
    shares: tuple[tuple[str, int, tuple[int, ...]], ...]


class RedisState:
    """One router's link to the others. start() and stop() in pairs; told() never waits.

    DOWN --Redis answers--> UP --an error, or 3 s of silence--> DOWN: tried again, ever more slowly
    """

    def __init__(
        self, url: str, client_id: str, replica: Replica, clock: Clock, metrics: Metrics
    ) -> None:
        """Raises ValueError for a URL that is none of Redis."""
        self._client_id = client_id
        self._replica = replica
        self._clock = clock
        self._metrics = metrics
        self._redis: redis.asyncio.Redis = redis.asyncio.from_url(
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._peers = PeerLoads()
        self._unsent: deque[_WireNote] = deque(maxlen=_MAX_UNSENT)
        self._wake = asyncio.Event()
        self._last_ids = {_STREAM: "0-0", _SHARES: "$"}
        self._told_shares: dict[WorkerKey, LoadShare] = {}
        self._offset_s = 0.0  # Redis's clock less ours
        self._is_up = False
        self._is_stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        metrics.gauge("baton_shared_state_up").set(0)

    @property
    def is_up(self) -> bool:
        return self._is_up

    @property
    def num_peers(self) -> int:
        return self._peers.num_peers

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run())]

    async def stop(self) -> None:
        self._is_stopped = True
        running = set(self._tasks)
        while running:
            # A child's error takes the place of the cancellation of its group (Python 3.11).
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=_STOP_AGAIN_S)
        await self._redis.aclose()

    def told(self, note: PlacementNote) -> None:
        """A placement, for the others; the oldest unsent ones give way when Redis is away."""
        if not self._is_up:
            return
        shares = tuple((*worker, _packed(share)) for worker, share in note.shares.items())
        hashes = tuple(note.hashes[:_MAX_HASHES])
        self._unsent.append(
            _WireNote(self._client_id, note.workers, hashes, note.session, note.home, shares)
        )
        self._wake.set()

    async def _run(self) -> None:
        """Keeps both exchanges going while Redis is there, and waits for it while it is not."""
        backoff_s = _RETRY_MIN_S
        while not self._is_stopped:
            try:
                await self._meet()
                backoff_s = _RETRY_MIN_S
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._read())
                    group.create_task(self._exchange())
            except* (RedisError, OSError) as failures:
                self._lost(failures.exceptions[0])
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _RETRY_MAX_S)

    async def _meet(self) -> None:
        seconds, microseconds = await self._redis.time()
        self._offset_s = seconds + microseconds / 1e6 - self._clock.now()
        if not self._is_up:
            _log.info("the shared state is up")
        self._set_up(True)

    def _lost(self, error: BaseException) -> None:
        """Serving goes on with this router's own view."""
        if self._is_up:
            _log.warning("the shared state is lost: this router is alone", reason=str(error))
        self._set_up(False)
        self._unsent.clear()
        self._told_shares = {}
        self._last_ids[_SHARES] = "$"
        self._peers = PeerLoads()
        self._replica.take_shares({})

    def _set_up(self, is_up: bool) -> None:
        self._is_up = is_up
        self._metrics.gauge("baton_shared_state_up").set(is_up)
        self._metrics.gauge("baton_shared_state_peers").set(self._peers.num_peers)

    # --- placements ---------------------------------------------------------------------------

    async def _read(self) -> None:
        while not self._is_stopped:
            asked: Any = dict(self._last_ids)
            found: Any = await self._redis.xread(asked, count=256, block=_READ_WAIT_MS)
            for stream, entries in found or ():
                name = stream.decode()
                for entry_id, fields in entries:
                    self._last_ids[name] = entry_id.decode()
                    written_s = int(entry_id.partition(b"-")[0]) / 1e3 - self._offset_s
                    self._take(fields, max(0.0, self._clock.now() - written_s))

    def _take(self, fields: Mapping[bytes, bytes], age_s: float) -> None:
        try:
            if b"s" in fields:
                self._take_shares(msgspec.msgpack.decode(fields[b"s"], type=_WireShares), age_s)
            else:
                note = msgspec.msgpack.decode(fields.get(b"n", b""), type=_WireNote)
                self._take_note(note, age_s)
        except (msgspec.DecodeError, TypeError) as error:
            _log.warning("a note of another router cannot be read", reason=str(error))

    def _take_shares(self, told: _WireShares, age_s: float) -> None:
        if told.router != self._client_id and age_s < _FRESH_S:
            self._peers.told(told.router, _unpacked(told.shares), self._clock.now())
            self._replica.take_shares(self._peers.totals())

    def _take_note(self, note: _WireNote, age_s: float) -> None:
        if note.router == self._client_id:
            return
        shares = _unpacked(note.shares)
        taken = PlacementNote(note.workers, note.hashes, note.session, note.home, shares)
        self._replica.take_note(taken, age_s)
        if age_s < _NEWS_S:
            for worker, share in shares.items():
                self._peers.added(note.router, worker, share, self._clock.now())
            self._replica.take_shares(self._peers.totals())

    # --- loads --------------------------------------------------------------------------------

    async def _exchange(self) -> None:
        """Sends notes as they come, and own shares soon after they have changed."""
        due_s = trade_s = self._clock.now()
        while not self._is_stopped:
            left_s = due_s - self._clock.now()
            if left_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._wake.wait()
            self._wake.clear()
            await self._send_notes()
            now_s = self._clock.now()
            if now_s >= due_s:
                num_workers = await self._send_shares()
                due_s = now_s + max(_PERIOD_S, _WORKER_S * num_workers)
            if now_s >= trade_s:
                await self._trade_shares()
                trade_s = now_s + _TRADE_S

    async def _send_shares(self) -> int:
        """What is told of a worker stays true until it is told anew. Gives the workers' number."""
        own = self._replica.own_shares()
        shares = _without_zeros(own)
        if shares == self._told_shares:
            return len(own)
        told = tuple((*worker, _packed(share)) for worker, share in shares.items())
        fields: Any = {"s": msgspec.msgpack.encode(_WireShares(self._client_id, told))}
        await self._redis.xadd(_SHARES, fields, maxlen=_SHARES_LENGTH, approximate=True)
        self._told_shares = shares
        return len(own)

    async def _send_notes(self) -> None:
        if not self._unsent:
            return
        pipe = self._redis.pipeline(transaction=False)
        while self._unsent:
            fields: Any = {"n": msgspec.msgpack.encode(self._unsent.popleft())}
            pipe.xadd(_STREAM, fields, maxlen=_STREAM_LENGTH, approximate=True)
        await pipe.execute()

    async def _trade_shares(self) -> None:
        own: Any = {
            _field(worker): msgspec.msgpack.encode(_packed(share))
            for worker, share in _without_zeros(self._replica.own_shares()).items()
        }
        key, now_s = f"{_PREFIX}:loads:{self._client_id}", self._clock.now()
        redis_ms = round(1e3 * (now_s + self._offset_s))
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(key)
        if own:
            pipe.hset(key, mapping=own)
            pipe.pexpire(key, _TTL_MS)
        pipe.zadd(_ROUTERS, {self._client_id: redis_ms})
        pipe.zremrangebyscore(_ROUTERS, 0, redis_ms - _TTL_MS)
        pipe.zrange(_ROUTERS, 0, -1)
        names = [name.decode() for name in (await pipe.execute())[-1]]
        others = [name for name in names if name != self._client_id]
        if others:
            pipe = self._redis.pipeline(transaction=False)
            for name in others:
                pipe.hgetall(f"{_PREFIX}:loads:{name}")
            for name, found in zip(others, await pipe.execute(), strict=True):
                self._peers.told(name, _shares(found), now_s)
        self._peers.forget_silent(now_s)
        self._replica.take_shares(self._peers.totals())
        self._metrics.gauge("baton_shared_state_peers").set(self._peers.num_peers)


def _without_zeros(shares: Mapping[WorkerKey, LoadShare]) -> dict[WorkerKey, LoadShare]:
    return {worker: share for worker, share in shares.items() if share != NO_SHARE}


def _packed(share: LoadShare) -> tuple[int, ...]:
    return (
        share.num_seqs,
        share.waiting_tokens,
        share.used_blocks,
        share.num_decoding,
        share.context_tokens,
    )


def _unpacked(
    packed: tuple[tuple[str, int, tuple[int, ...]], ...],
) -> dict[WorkerKey, LoadShare]:
    return {(name, epoch): LoadShare(*values) for name, epoch, values in packed}


def _field(worker: WorkerKey) -> bytes:
    return msgspec.msgpack.encode(worker)


def _shares(found: Mapping[bytes, bytes]) -> dict[WorkerKey, LoadShare]:
    """Shares as another router wrote them; what cannot be read is left out."""
    shares: dict[WorkerKey, LoadShare] = {}
    for field, value in found.items():
        with contextlib.suppress(msgspec.DecodeError, TypeError):
            worker = msgspec.msgpack.decode(field, type=tuple[str, int])
            shares[worker] = LoadShare(*msgspec.msgpack.decode(value, type=tuple[int, ...]))
    return shares
