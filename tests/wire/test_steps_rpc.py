"""A worker's last steps over a real gRPC server."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import rpc
from wire.messages import StepTotals
from wire.steps_rpc import add_steps_service, decode_steps, encode_steps, fetch_steps

COUNTS = st.integers(0, 1 << 53)
TOTALS = st.builds(
    StepTotals, COUNTS, COUNTS, st.floats(0, 1e9), COUNTS, COUNTS, COUNTS, COUNTS
)  # fmt: skip


@given(st.lists(TOTALS, max_size=20))
def test_steps_come_back_as_they_were(totals: list[StepTotals]) -> None:
    assert decode_steps(encode_steps(totals)) == totals


def test_columns_of_different_lengths_are_refused() -> None:
    message = encode_steps([StepTotals(1), StepTotals(2)])
    message.step_s.append(1.0)
    with pytest.raises(ValueError, match="shorter|longer"):
        decode_steps(message)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = rpc.build_server("secret")
    add_steps_service(server, lambda: [StepTotals(7, 1, 0.5), StepTotals(8, 1, 0.75, 3, 100)])
    port = rpc.bind(server, "127.0.0.1", 0)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_a_worker_tells_its_last_steps_to_those_with_the_token(address: str) -> None:
    channel = rpc.open_channel(address)
    assert await fetch_steps(channel, "secret") == [
        StepTotals(7, 1, 0.5),
        StepTotals(8, 1, 0.75, 3, 100),
    ]
    with pytest.raises(rpc.RpcError, match="cluster token"):
        await fetch_steps(channel)
    await channel.close()
