"""Who sent a request, and what goes for it besides its body."""

from dataclasses import dataclass

from gateway.tenants import ANYONE, Tenant
from wire.messages import RequestTerms


@dataclass(frozen=True, slots=True)
class Caller:
    """max_model_len: prompt and answer together, in tokens. terms: what the router weighs."""

    request_id: str
    max_model_len: int
    tenant: Tenant = ANYONE
    terms: RequestTerms = RequestTerms()
