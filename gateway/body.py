"""Reads a request's body, up to a limit and within a time."""

import asyncio
from collections.abc import Iterable

from starlette.types import Receive

from gateway.errors import ApiError, ClientGone

_DISCARD_LIMIT_BYTES = 64 << 20


async def read_body(
    receive: Receive, headers: Iterable[tuple[bytes, bytes]], limit_bytes: int, timeout_s: float
) -> bytes:
    """Raises ApiError 413 over the limit, 408 when the body does not come, ClientGone.

    An oversized body is read and discarded up to 64 MiB before the answer, because closing a
    connection with unread data resets it and the client would not see why.
    """
    by_name = dict(headers)
    too_large = _declared_bytes(by_name) > limit_bytes
    if too_large and b"expect" in by_name:  # the client waits for leave to send: refuse
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(receive, limit_bytes)
    except TimeoutError as error:
        message = f"the request's body did not arrive within {timeout_s:g} s"
        raise ApiError(408, message, code="body_timeout") from error


async def _read(receive: Receive, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    num_bytes = 0
    more = True
    while more and num_bytes <= max(limit_bytes, _DISCARD_LIMIT_BYTES):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        if num_bytes <= limit_bytes:
            chunks.append(chunk)
        more = message.get("more_body", False)
    if num_bytes > limit_bytes:
        raise _too_large(limit_bytes)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _declared_bytes(headers: dict[bytes, bytes]) -> int:
    declared = headers.get(b"content-length", b"0")
    return int(declared) if declared.isdigit() else 0


def _too_large(limit_bytes: int) -> ApiError:
    message = f"the request's body is over the limit of {limit_bytes} bytes"
    return ApiError(413, message, code="body_too_large")
