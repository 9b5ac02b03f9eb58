"""The errors that cross a process, each with a code that the client can read."""

from enum import StrEnum


class ErrorCode(StrEnum):
    """What went wrong, in one word; the gateway maps each to an HTTP status."""

    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"
    WORKER_LOST = "worker_lost"
    TRANSFER_FAILED = "transfer_failed"
    CANCELLED = "cancelled"
    INTERNAL = "internal"

    @property
    def is_retryable(self) -> bool:
        """Another worker may succeed with the same request."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        ErrorCode.OVERLOADED,
        ErrorCode.UNAVAILABLE,
        ErrorCode.DRAINING,
        ErrorCode.WORKER_LOST,
        ErrorCode.TRANSFER_FAILED,
        ErrorCode.INTERNAL,
    }
)


class BatonError(Exception):
    """A failure of the world (not a bug): a code, a message for people, the field it is about."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
