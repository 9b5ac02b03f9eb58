"""The page of the latest or slowest requests: what it may be asked, and whose it shows."""

from collections.abc import Mapping
from dataclasses import asdict

from gateway.errors import invalid
from gateway.generation import TokenSource
from gateway.tenants import ANYONE, Tenant

MAX_SHOWN = 1000
_DEFAULT_SHOWN = 50
_ORDERS = ("latest", "slowest")


def trace_list(
    source: TokenSource, query: Mapping[str, str], tenant: Tenant
) -> dict[str, list[dict[str, object]]]:
    """`order` is latest or slowest, `limit` how many. A tenant sees its own requests.

    Raises ApiError 400 that names the parameter and its limit.
    """
    order = query.get("order", "latest")
    if order not in _ORDERS:
        raise invalid(f"order must be one of {', '.join(_ORDERS)}, is {order[:40]!r}", "order")
    limit = _limit(query.get("limit", str(_DEFAULT_SHOWN)))
    count = limit if tenant is ANYONE else MAX_SHOWN
    found = source.recent_traces(count, order == "slowest")
    shown = [
        {"id": request_id, **asdict(trace)}
        for request_id, trace in found
        if tenant is ANYONE or trace.tenant == tenant.name
    ]
    return {"requests": shown[:limit]}


def _limit(text: str) -> int:
    try:
        limit = int(text)
    except ValueError:
        limit = 0
    if not 1 <= limit <= MAX_SHOWN:
        raise invalid(f"limit must be in 1 .. {MAX_SHOWN}, is {text[:40]!r}", "limit")
    return limit
