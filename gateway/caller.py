"""Who sent a request, and what goes for it besides its body."""

from dataclasses import dataclass

from gateway.limits import Limits
from gateway.tenants import ANYONE, Tenant
from wire.messages import RequestTerms


@dataclass(frozen=True, slots=True)
class Caller:
    """max_model_len: prompt and answer together, in tokens. terms: what the router weighs.

    traceparent: W3C's, of the span that the client is in; empty: none. keep_s: how long the
    blocks of the answers' sequences are to stay cached.
    """

    request_id: str
    max_model_len: int
    limits: Limits = Limits()
    tenant: Tenant = ANYONE
    terms: RequestTerms = RequestTerms()
    traceparent: str = ""
    keep_s: float = 0.0
