"""A worker's last steps over gRPC: what each of them did and took, for those who fit a profile."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from wire.gen import steps_pb2, steps_pb2_grpc
from wire.messages import StepTotals
from wire.rpc import Channel, Server, call_metadata

_NAMES = tuple(field.name for field in fields(StepTotals))


def add_steps_service(server: Server, recent: Callable[[], Iterable[StepTotals]]) -> None:
    """recent: the totals behind each of the last steps, oldest first."""
    steps_pb2_grpc.add_StepsServicer_to_server(_StepsAdapter(recent), server)


async def fetch_steps(
    channel: Channel, token: str = "", timeout_s: float = 5.0
) -> list[StepTotals]:
    """The totals behind each of the worker's last steps, oldest first.

    Raises RpcError; UNIMPLEMENTED: the worker is of a version that does not tell them.
    """
    stub = steps_pb2_grpc.StepsStub(channel)
    request = steps_pb2.RecentRequest()
    return decode_steps(
        await stub.Recent(request, metadata=call_metadata(token), timeout=timeout_s)
    )


def encode_steps(totals: Iterable[StepTotals]) -> steps_pb2.RecentSteps:
    rows = list(totals)
    return steps_pb2.RecentSteps(**{name: [getattr(row, name) for row in rows] for name in _NAMES})


def decode_steps(message: steps_pb2.RecentSteps) -> list[StepTotals]:
    """Raises ValueError for columns of different lengths."""
    columns = (getattr(message, name) for name in _NAMES)
    return [StepTotals(*row) for row in zip(*columns, strict=True)]


class _StepsAdapter(steps_pb2_grpc.StepsServicer):
    def __init__(self, recent: Callable[[], Iterable[StepTotals]]) -> None:
        self._recent = recent

    async def Recent(self, request: steps_pb2.RecentRequest, context: Any) -> steps_pb2.RecentSteps:
        return encode_steps(self._recent())
