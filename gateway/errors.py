"""Every failure as the client sees it: an HTTP status and OpenAI's error object."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from router.no_worker import NoWorker
from wire.errors import BatonError, ErrorCode

WAITING = b"x-baton-waiting"


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


class ApiError(Exception):
    """A refusal or failure with its HTTP status; `param` names the request's field."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        waiting: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.waiting = waiting
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> bytes:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else _INVALID)
        return msgspec.json.encode(
            ErrorBody(ErrorDetail(self.message, kind, self.param, self.code))
        )

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Retry-After in whole seconds, where trying again can help; how to authenticate; what it
        was waited for."""
        if self.status == 401:
            return [(b"www-authenticate", b"Bearer")]
        if self.retry_after_s is None:
            return []
        found = [(b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s)))]
        return [*found, (WAITING, self.waiting.encode())] if self.waiting else found


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 about one field of the request."""
    return ApiError(400, message, param=param, code=code)


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Errors raised inside call fields by the names that the client knows them by."""
    try:
        yield
    except ApiError as error:
        root, dot, rest = (error.param or "").partition(".")
        if root not in names:
            raise
        raise ApiError(
            error.status,
            error.message.replace(root, names[root]),
            code=error.code,
            param=f"{names[root]}{dot}{rest}",
            retry_after_s=error.retry_after_s,
        ) from error


def from_baton(error: BatonError) -> ApiError:
    """The answer to a failure below the gateway."""
    status = _STATUS[error.code]
    retry_after_s = error.retry_after_s
    if retry_after_s is None and status in (429, 503):
        retry_after_s = 1.0
    return ApiError(
        status,
        error.message,
        code=error.code.value,
        param=error.param,
        retry_after_s=retry_after_s,
        waiting=error.waiting if isinstance(error, NoWorker) else "",
    )


_INVALID = "invalid_request_error"
_TYPES = {429: "rate_limit_error", 503: "service_unavailable_error"}
_STATUS = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: 400,
    ErrorCode.MODEL_NOT_FOUND: 404,
    ErrorCode.OVERLOADED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.WORKER_LOST: 503,
    ErrorCode.TRANSFER_FAILED: 503,
    ErrorCode.CANCELLED: 500,
    ErrorCode.INTERNAL: 500,
}
