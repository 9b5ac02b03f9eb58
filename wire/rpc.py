"""gRPC as Baton uses it: channels, servers, the cluster token, and both services as dataclasses.

A gateway's end of a worker's session is session.py's.
"""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from wire import cluster_codec, codec
from wire.cluster import ClusterSnapshot, ClusterStatus, ControlOrder, ServingMode, WorkerBeat
from wire.errors import BatonError, ErrorCode
from wire.gen import control_pb2, control_pb2_grpc, worker_pb2, worker_pb2_grpc
from wire.messages import ClientFrame, Hello, WorkerFrame

TOKEN_HEADER = "baton-cluster-token"
MAX_MESSAGE_BYTES = 64 << 20
NO_MODE = ServingMode()
_OPEN_METHODS = "/grpc.health.v1.Health/"  # probes carry no token

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),  # keepalive pings never end a session
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

T = TypeVar("T")
RpcError = grpc.aio.AioRpcError
Server = grpc.aio.Server
Channel = grpc.aio.Channel


class WorkerService(Protocol):
    """What a worker answers to one gateway's session; the iterator's end closes the session."""

    def session(self, frames: AsyncIterator[ClientFrame]) -> AsyncIterator[WorkerFrame]: ...


class ControlService(Protocol):
    """What the control plane answers."""

    def register(self, beats: AsyncIterator[WorkerBeat]) -> AsyncIterator[ControlOrder]: ...

    def watch(self, client_id: str, follows: ServingMode) -> AsyncIterator[ClusterSnapshot]: ...

    async def status(self) -> ClusterStatus: ...

    async def order(self, worker_id: str, order: ControlOrder) -> None:
        """Raises BatonError when no such worker is live or the order makes no sense."""
        ...


def open_channel(address: str) -> Channel:
    """A lazy channel to host:port; calls on it fail fast while nobody listens there."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def build_server(token: str = "") -> Server:
    """A server that refuses every call without the cluster token, when there is one."""
    interceptors = [_TokenCheck(token)] if token else []
    return grpc.aio.server(options=_OPTIONS, interceptors=interceptors)


def bind(server: Server, host: str, port: int) -> int:
    """Listens on host:port (0 picks a free port) and gives the port; OSError when it is taken."""
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error}") from error
    if bound == 0:
        raise OSError(f"cannot listen on {host}:{port}: the port is in use")
    return int(bound)


def add_worker_service(server: Server, service: WorkerService) -> None:
    worker_pb2_grpc.add_WorkerServicer_to_server(_WorkerAdapter(service), server)


def add_control_service(server: Server, service: ControlService) -> None:
    control_pb2_grpc.add_ControlServicer_to_server(_ControlAdapter(service), server)


async def register(
    channel: Channel, beats: AsyncIterator[WorkerBeat], token: str = ""
) -> AsyncIterator[ControlOrder]:
    """Sends heartbeats and gives the control plane's orders.

    Raises ValueError for an order that this version does not know.
    """
    stub = control_pb2_grpc.ControlStub(channel)
    call = stub.Register(_encoded(beats, cluster_codec.encode_beat), metadata=call_metadata(token))
    try:
        async for order in call:
            yield cluster_codec.decode_order(order)
    finally:
        call.cancel()


async def watch(
    channel: Channel, client_id: str, token: str = "", follows: ServingMode = NO_MODE
) -> AsyncIterator[ClusterSnapshot]:
    """The cluster as it is, then again at every change. follows: the mode that the caller was told
    last, by whichever control plane.

    Raises ValueError for what this version does not know.
    """
    stub = control_pb2_grpc.ControlStub(channel)
    request = control_pb2.WatchRequest(
        client_id=client_id, follows=cluster_codec.encode_serving(follows)
    )
    call = stub.Watch(request, metadata=call_metadata(token))
    try:
        async for message in call:
            yield cluster_codec.decode_snapshot(message)
    finally:
        call.cancel()


async def fetch_status(channel: Channel, token: str = "", timeout_s: float = 5.0) -> ClusterStatus:
    stub = control_pb2_grpc.ControlStub(channel)
    request = control_pb2.StatusRequest()
    return cluster_codec.decode_status(
        await stub.Status(request, metadata=call_metadata(token), timeout=timeout_s)
    )


async def send_order(
    channel: Channel, worker_id: str, order: ControlOrder, token: str = "", timeout_s: float = 5.0
) -> None:
    """Has an order handed to a worker. Raises RpcError; NOT_FOUND: no such worker is live."""
    stub = control_pb2_grpc.ControlStub(channel)
    request = control_pb2.OrderRequest(worker_id=worker_id, order=cluster_codec.encode_order(order))
    await stub.Order(request, metadata=call_metadata(token), timeout=timeout_s)


def call_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """What every call carries: the cluster token, where there is one."""
    return ((TOKEN_HEADER, token),) if token else ()


async def _encoded(items: AsyncIterator[T], encode: Callable[[T], Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield encode(item)


async def _decoded(messages: AsyncIterator[Any], decode: Callable[[Any], T]) -> AsyncIterator[T]:
    async for message in messages:
        yield decode(message)


class _WorkerAdapter(worker_pb2_grpc.WorkerServicer):
    def __init__(self, service: WorkerService) -> None:
        self._service = service

    async def Session(
        self, request_iterator: AsyncIterator[worker_pb2.ClientFrame], context: Any
    ) -> AsyncIterator[worker_pb2.WorkerFrame]:
        in_columns = False

        async def frames() -> AsyncIterator[ClientFrame]:
            nonlocal in_columns
            async for message in request_iterator:
                frame = codec.decode_client_frame(message)
                if isinstance(frame, Hello):
                    in_columns = frame.reads_columns
                yield frame

        async for frame in self._service.session(frames()):
            yield codec.encode_worker_frame(frame, in_columns=in_columns)


class _ControlAdapter(control_pb2_grpc.ControlServicer):
    def __init__(self, service: ControlService) -> None:
        self._service = service

    async def Register(
        self, request_iterator: AsyncIterator[control_pb2.WorkerBeat], context: Any
    ) -> AsyncIterator[control_pb2.ControlOrder]:
        beats = _decoded(request_iterator, cluster_codec.decode_beat)
        try:
            async for order in self._service.register(beats):
                yield cluster_codec.encode_order(order)
        except BatonError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)

    async def Watch(
        self, request: control_pb2.WatchRequest, context: Any
    ) -> AsyncIterator[control_pb2.ClusterSnapshot]:
        try:
            follows = cluster_codec.decode_serving(request.follows)
            async for snapshot in self._service.watch(request.client_id, follows):
                yield cluster_codec.encode_snapshot(snapshot)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except BatonError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)

    async def Status(
        self, request: control_pb2.StatusRequest, context: Any
    ) -> control_pb2.ClusterStatus:
        return cluster_codec.encode_status(await self._service.status())

    async def Order(
        self, request: control_pb2.OrderRequest, context: Any
    ) -> control_pb2.OrderReply:
        try:
            order = cluster_codec.decode_order(request.order)
            await self._service.order(request.worker_id, order)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except BatonError as error:
            is_unknown = error.code is ErrorCode.UNAVAILABLE
            status = grpc.StatusCode.NOT_FOUND if is_unknown else grpc.StatusCode.INVALID_ARGUMENT
            await context.abort(status, error.message)
        return control_pb2.OrderReply()


class _TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        if details.method.startswith(_OPEN_METHODS):
            return handler
        given = dict(details.invocation_metadata).get(TOKEN_HEADER, "")
        if handler is None or hmac.compare_digest(str(given).encode(), self._token):
            return handler
        return _refuse(handler)


def _refuse(handler: Any) -> Any:
    message = "the call carries no valid cluster token"

    async def refuse_stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)
        yield  # pragma: no cover - abort raises

    async def refuse(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse_stream)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse_stream)
    return grpc.unary_unary_rpc_method_handler(refuse)
