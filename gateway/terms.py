"""What a request's headers ask of the router: objectives, a session, and how long to keep it."""

from collections.abc import Iterable

from gateway.errors import invalid
from gateway.tenants import Tenant
from wire.messages import RequestTerms

TTFT_HEADER = b"x-baton-ttft-ms"
TPOT_HEADER = b"x-baton-tpot-ms"
SESSION_HEADER = b"x-baton-session"
KEEP_HEADER = b"x-baton-keep-s"
MAX_OBJECTIVE_MS = 3_600_000.0
MAX_KEEP_S = 3600.0
MAX_SESSION_BYTES = 256


def asked_terms(headers: Iterable[tuple[bytes, bytes]], tenant: Tenant, model: str) -> RequestTerms:
    """The terms of one request. Raises ApiError 400 that names the header and its limit.

    An objective is a number of milliseconds. A session is named apart from other tenants' ones.
    """
    by_name = dict(headers)
    session = by_name.get(SESSION_HEADER, b"")
    if len(session) > MAX_SESSION_BYTES:
        name = SESSION_HEADER.decode()
        raise invalid(f"{name} has {len(session)} bytes, at most {MAX_SESSION_BYTES} go", name)
    return RequestTerms(
        tenant=tenant.name,
        weight=tenant.weight,
        ttft_slo_s=_objective_s(by_name, TTFT_HEADER),
        tpot_slo_s=_objective_s(by_name, TPOT_HEADER),
        session=f"{tenant.name}\x1f{session.decode('latin-1')}" if session else "",
        model=model,
    )


def asked_keep_s(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """For how long the session's blocks are wanted once it waits for a tool; 0: not asked.

    Raises ApiError 400 that names the header and its limit.
    """
    return _number(dict(headers), KEEP_HEADER, "seconds", MAX_KEEP_S)


def _objective_s(by_name: dict[bytes, bytes], header: bytes) -> float:
    """0 where the header is not there."""
    return _number(by_name, header, "milliseconds", MAX_OBJECTIVE_MS) / 1e3


def _number(by_name: dict[bytes, bytes], header: bytes, unit: str, most: float) -> float:
    text = by_name.get(header)
    if text is None:
        return 0.0
    name = header.decode()
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= most:
        shown = text[:40].decode("latin-1")
        message = f"{name} must be a number of {unit} over 0, at most {most:.0f}"
        raise invalid(f"{message}, is {shown!r}", name)
    return number
