"""Services and streams over a real gRPC server."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from wire import rpc
from wire.cluster import (
    ClusterSnapshot,
    ClusterStatus,
    ControlOrder,
    OrderKind,
    ServingMode,
    WorkerBeat,
)
from wire.errors import BatonError, ErrorCode


class OneSnapshot:
    """A control plane with one version, which acknowledges every beat."""

    async def register(self, beats: AsyncIterator[WorkerBeat]) -> AsyncIterator[ControlOrder]:
        async for _ in beats:
            yield ControlOrder(OrderKind.ACK)

    async def watch(self, client_id: str, follows: ServingMode) -> AsyncIterator[ClusterSnapshot]:
        yield ClusterSnapshot(1)

    async def status(self) -> ClusterStatus:
        return ClusterStatus(1)

    async def order(self, worker_id: str, order: ControlOrder) -> None:
        if worker_id != "d0":
            raise BatonError(ErrorCode.UNAVAILABLE, f"no worker {worker_id!r} is live")
        if order.role is None:
            raise BatonError(ErrorCode.INVALID_REQUEST, "a flip needs a role")


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = rpc.build_server("secret")
    rpc.add_control_service(server, OneSnapshot())
    port = rpc.bind(server, "127.0.0.1", 0)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_calls_without_the_cluster_token_are_refused(address: str) -> None:
    channel = rpc.open_channel(address)
    with pytest.raises(rpc.RpcError, match="cluster token"):
        await anext(rpc.watch(channel, "client"))
    with pytest.raises(rpc.RpcError, match="cluster token"):
        await rpc.fetch_status(channel)
    await channel.close()


async def test_watch_and_status_answer_with_the_token(address: str) -> None:
    channel = rpc.open_channel(address)
    assert await anext(rpc.watch(channel, "client", "secret")) == ClusterSnapshot(1)
    assert await rpc.fetch_status(channel, "secret") == ClusterStatus(1)
    await channel.close()


def test_a_busy_port_is_an_error_that_names_it() -> None:
    async def bind_twice() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=str(port)):
                rpc.bind(rpc.build_server(), "127.0.0.1", port)

    asyncio.run(bind_twice())
