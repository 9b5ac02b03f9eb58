"""Mutual TLS: who may ask what without a certificate that the server's authority has signed.

The check is the application's and not the handshake's, so that probes and scrapers, which have
no certificate, reach the pages that are for them.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ApiError
from gateway.http_reply import HttpReply
from runtime.lifecycle import new_id

STRANGER = "baton.stranger"  # the extension of a scope whose client has shown no certificate
OPEN_PAGES = frozenset(("/livez", "/readyz", "/metrics"))
_MESSAGE = "this server asks its clients for a certificate, and none came with the connection"
_CLOSES = ((b"connection", b"close"),)  # the request's body is not read


class CertifiedOnly:
    """Answers 403 to clients without a certificate, but for the open pages.

    A browser sends none with the question whether it may ask (CORS preflight): that is let by.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["path"] in OPEN_PAGES or scope["method"] == "OPTIONS"
        if is_open or STRANGER not in scope["extensions"]:
            await self._app(scope, receive, send)
            return
        error = ApiError(403, _MESSAGE, code="client_certificate_required")
        await HttpReply(send, new_id("refused")).whole(403, error.body, _CLOSES)
