"""What a run and its generator processes say to each other, as length-prefixed frames."""

import asyncio
from typing import Any, Generic, TypeVar

import msgspec

from loadtest.body import BodyOptions
from loadtest.plan import Conversation
from loadtest.record import RequestRecord
from loadtest.target import Target

_LENGTH_BYTES = 4

T = TypeVar("T")


class ShardPlan(msgspec.Struct, frozen=True, tag=True):
    """A generator's share; it answers with Prepared."""

    conversations: tuple[Conversation, ...]
    body: BodyOptions
    target: Target
    timeout_s: float


class Start(msgspec.Struct, frozen=True, tag=True):
    """at: the host's monotonic clock, which all of its processes share."""

    at: float


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Send nothing more, end what is under way."""


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """Bodies are made; waits for Start."""


class Records(msgspec.Struct, frozen=True, tag=True):
    """Requests that ended, and how many are under way."""

    records: tuple[RequestRecord, ...]


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The last message. busy_share: of the run's time, on one core."""

    busy_share: float
    num_connections: int


ToShard = ShardPlan | Start | Stop
FromShard = Prepared | Records | Finished


def frame(message: ToShard | FromShard) -> bytes:
    payload = msgspec.msgpack.encode(message)
    return len(payload).to_bytes(_LENGTH_BYTES, "little") + payload


class FrameReader(Generic[T]):
    """Frames of one direction from a stream."""

    def __init__(self, stream: asyncio.StreamReader, kind: Any) -> None:
        """kind: the union T of message types, which no annotation can tie to T."""
        self._stream = stream
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)

    async def next(self) -> T | None:
        """None when the other side has closed the stream."""
        try:
            head = await self._stream.readexactly(_LENGTH_BYTES)
            payload = await self._stream.readexactly(int.from_bytes(head, "little"))
        except asyncio.IncompleteReadError:
            return None
        return self._decoder.decode(payload)
