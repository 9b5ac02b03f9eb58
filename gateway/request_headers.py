"""What a request's headers say about the request itself; what they ask of the router is terms.py's.

Who a client is follows from its API key alone: no header names a tenant.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """request_id, traceparent: the client's own, empty if it has none that is valid.

    shows_timing: the answer's headers tell its stages.
    """

    request_id: str = ""
    traceparent: str = ""
    shows_timing: bool = False


NO_HEADERS = RequestHeaders()


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> RequestHeaders:
    given = {name: value.decode("latin-1") for name, value in headers if name in _NAMES}
    if not given:
        return NO_HEADERS
    return RequestHeaders(
        request_id=_matching(_REQUEST_ID, given.get(b"x-request-id", "")),
        traceparent=_matching(_TRACEPARENT, given.get(b"traceparent", "")),
        shows_timing=given.get(b"x-baton-timing", "") in ("1", "true"),
    )


def _matching(pattern: re.Pattern[str], value: str) -> str:
    return value if pattern.fullmatch(value) else ""


_NAMES = frozenset((b"x-request-id", b"traceparent", b"x-baton-timing"))
