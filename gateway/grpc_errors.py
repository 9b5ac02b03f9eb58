"""Every failure as a gRPC client sees it: a status by the HTTP status, details in the trailer."""

from typing import Any

import grpc

from gateway.errors import ApiError

CODE_KEY = "baton-code"
PARAM_KEY = "baton-param"
RETRY_KEY = "retry-after"

_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def grpc_status(error: ApiError) -> grpc.StatusCode:
    return _STATUS[error.status]


async def abort(context: Any, error: ApiError) -> None:
    """Ends the call with `error`; the trailer has its code, field, and when to come back."""
    trailer = [(CODE_KEY, error.code or "invalid_request")]
    if error.param is not None and error.param.isascii():
        trailer.append((PARAM_KEY, error.param))
    for name, value in error.headers:
        if name == RETRY_KEY.encode():
            trailer.append((RETRY_KEY, value.decode()))
    await context.abort(grpc_status(error), error.message, tuple(trailer))
