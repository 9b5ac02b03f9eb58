"""A step's tokens cross the wire in columns, to those who read them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import codec, rpc
from wire.errors import BatonError
from wire.gen import worker_pb2, worker_pb2_grpc
from wire.messages import (
    ClientFrame,
    FinishReason,
    Hello,
    LegAccepted,
    LegEvent,
    LegFinished,
    LegTokens,
    TokenLogprobs,
    WorkerFrame,
)

STEP = tuple(LegTokens(leg_id, 7, (300 + leg_id,), (), leg_id / 8) for leg_id in range(40))
ONE = st.builds(LegTokens, st.integers(0, 9), st.integers(0, 9), st.tuples(st.integers(0, 9)))
OTHERS = st.sampled_from(
    [
        LegAccepted(1, 2),
        LegFinished(1, FinishReason.STOP),
        LegTokens(1, 0, (4, 5)),
        LegTokens(1, 0, ()),
        LegTokens(1, 0, (4,), (TokenLogprobs(-1.0),)),
    ]
)


@given(st.lists(ONE | OTHERS, max_size=30).map(tuple))
def test_events_keep_their_order_whatever_stands_between_tokens(
    events: tuple[LegEvent, ...],
) -> None:
    message = codec.encode_worker_frame(WorkerFrame(events), in_columns=True)
    again = worker_pb2.WorkerFrame.FromString(message.SerializeToString())
    assert codec.decode_worker_frame(again).events == events


def test_a_steps_tokens_are_no_messages_of_their_own() -> None:
    message = codec.encode_worker_frame(WorkerFrame(STEP), in_columns=True)
    assert not message.events and len(message.columns.tokens) == 4 * len(STEP)
    assert not message.columns.places


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("tokens", b"abc", "3 bytes"),
        ("tokens", b"", "40, 40, 0, 40 entries"),
        ("device_s", b"12345678", "40, 40, 40, 1 entries"),
        ("places", b"1234", "1 places for 40 tokens"),
        ("places", b"\0" * 160, "40 places for 40 tokens among 40 events"),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(column: str, value: bytes, why: str) -> None:
    message = codec.encode_worker_frame(WorkerFrame(STEP), in_columns=True)
    setattr(message.columns, column, value)
    with pytest.raises(BatonError, match=why):
        codec.decode_worker_frame(message)


class OneStep:
    """A worker that answers Hello with a step."""

    async def session(self, frames: AsyncIterator[ClientFrame]) -> AsyncIterator[WorkerFrame]:
        async for _ in frames:
            yield WorkerFrame(STEP)


@asynccontextmanager
async def stub_of_one_step() -> AsyncIterator[Any]:
    server = rpc.build_server()
    rpc.add_worker_service(server, OneStep())
    port = rpc.bind(server, "127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield worker_pb2_grpc.WorkerStub(channel)
    await server.stop(None)


@pytest.mark.parametrize("reads_columns", [True, False])
async def test_a_client_that_does_not_say_that_it_reads_columns_gets_none(
    reads_columns: bool,
) -> None:
    hello = codec.encode_client_frame(Hello("gateway", reads_columns=reads_columns))
    async with stub_of_one_step() as stub:
        call = stub.Session(iter([hello]))
        message = await call.read()
        call.cancel()
    assert message.HasField("columns") is reads_columns
    assert codec.decode_worker_frame(message).events == STEP
