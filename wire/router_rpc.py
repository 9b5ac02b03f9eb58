"""The router's own service over gRPC, as dataclasses: health and reflection stand beside it."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from wire import router_codec
from wire.errors import BatonError, ErrorCode
from wire.gen import router_pb2, router_pb2_grpc
from wire.messages import GenerateRequest
from wire.router_messages import GenerateDelta, PlaceCall, PlaceReply
from wire.rpc import TOKEN_HEADER, Channel, Server

CODE_KEY = "baton-code"
RETRY_KEY = "retry-after-ms"
SERVICE = router_pb2.DESCRIPTOR.services_by_name["Router"].full_name

_STATUS = {
    ErrorCode.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.CANCELLED: grpc.StatusCode.CANCELLED,
    ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
}


class RouterService(Protocol):
    """What the router answers. All raise BatonError; the client sees its code."""

    def place(self, call: PlaceCall) -> PlaceReply: ...

    def started(self, place_id: str) -> None: ...

    def release(self, place_id: str) -> None: ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateDelta]: ...


class HealthState:
    """What the health service says of this server."""

    def __init__(self, servicer: Any) -> None:
        self._servicer = servicer

    async def set_serving(self, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._servicer.set(name, status.SERVING if is_serving else status.NOT_SERVING)


def add_router_service(server: Server, service: RouterService) -> HealthState:
    """Adds the service, its health, not serving yet, and reflection."""
    router_pb2_grpc.add_RouterServicer_to_server(_RouterAdapter(service), server)
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return HealthState(servicer)


class RouterClient:
    """The service as its callers in Python see it. Raises BatonError as the router did."""

    def __init__(self, channel: Channel, token: str = "") -> None:
        self._stub = router_pb2_grpc.RouterStub(channel)
        self._metadata = ((TOKEN_HEADER, token),) if token else ()

    async def place(self, call: PlaceCall) -> PlaceReply:
        try:
            message = await self._stub.Place(
                router_codec.encode_place(call), metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise _as_baton(error) from error
        return router_codec.decode_place_reply(message)

    async def started(self, place_id: str) -> None:
        await self._stub.Started(router_pb2.PlacedId(place_id=place_id), metadata=self._metadata)

    async def release(self, place_id: str) -> None:
        await self._stub.Release(router_pb2.PlacedId(place_id=place_id), metadata=self._metadata)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateDelta]:
        call = self._stub.Generate(router_codec.encode_generate(request), metadata=self._metadata)
        try:
            async for message in call:
                yield router_codec.decode_delta(message)
        except grpc.aio.AioRpcError as error:
            raise _as_baton(error) from error
        finally:
            call.cancel()


class _RouterAdapter(router_pb2_grpc.RouterServicer):
    def __init__(self, service: RouterService) -> None:
        self._service = service

    async def Place(self, request: router_pb2.PlaceCall, context: Any) -> router_pb2.PlaceReply:
        try:
            reply = self._service.place(router_codec.decode_place(request))
        except BatonError as error:
            await _abort(context, error)
            raise
        return router_codec.encode_place_reply(reply)

    async def Started(self, request: router_pb2.PlacedId, context: Any) -> router_pb2.Done:
        self._service.started(request.place_id)
        return router_pb2.Done()

    async def Release(self, request: router_pb2.PlacedId, context: Any) -> router_pb2.Done:
        self._service.release(request.place_id)
        return router_pb2.Done()

    async def Generate(
        self, request: router_pb2.GenerateCall, context: Any
    ) -> AsyncIterator[router_pb2.GenerateDelta]:
        try:
            async for delta in self._service.generate(router_codec.decode_generate(request)):
                yield router_codec.encode_delta(delta)
        except BatonError as error:
            await _abort(context, error)


async def _abort(context: Any, error: BatonError) -> None:
    """Ends the call with the status that fits; code and time to come back go in the trailer."""
    trailer = [(CODE_KEY, error.code.value)]
    if error.retry_after_s is not None:
        trailer.append((RETRY_KEY, str(round(1e3 * error.retry_after_s))))
    status = _STATUS.get(error.code, grpc.StatusCode.UNAVAILABLE)
    await context.abort(status, error.message, tuple(trailer))


def _as_baton(error: grpc.aio.AioRpcError) -> BatonError:
    pairs: Any = error.trailing_metadata() or ()  # its stubs know no iteration
    trailer = {str(key): str(value) for key, value in pairs}
    code = ErrorCode(trailer.get(CODE_KEY, ErrorCode.UNAVAILABLE.value))
    retry = trailer.get(RETRY_KEY)
    retry_after_s = None if retry is None else int(retry) / 1e3
    return BatonError(code, error.details() or error.code().name, retry_after_s=retry_after_s)
