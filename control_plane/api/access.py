"""Who may read and who may act: one bearer token, compared in constant time."""

import hmac
from dataclasses import dataclass

from starlette.requests import Request

_MAX_NAME_CHARS = 100


class Denied(Exception):
    """status: 401 without a valid token, 403 where no token could be valid."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Access:
    """token: of operators; without one nobody may act. guards_reads: reading asks for it too."""

    token: str = ""
    guards_reads: bool = False

    def check_read(self, request: Request) -> None:
        """Raises Denied."""
        if self.guards_reads:
            self.check_action(request)

    def check_action(self, request: Request) -> None:
        """Raises Denied."""
        if not self.token:
            raise Denied(403, "no operator token is set: BATON_OPERATOR_TOKEN of the control plane")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer"
        if not is_bearer or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise Denied(401, "the request carries no valid operator token")


def who_asks(request: Request) -> str:
    """The name that the operator gives (header X-Operator) and where the request came from."""
    given = request.headers.get("x-operator", "")
    name = "".join(c for c in given if c.isprintable())[:_MAX_NAME_CHARS] or "operator"
    return f"{name}@{request.client.host}" if request.client else name
