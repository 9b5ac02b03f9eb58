"""The dashboard's routes: its files, the operator API handed through, the gateways' figures."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dashboard.feed import GatewayFeed
from dashboard.history import MAX_MINUTES, PrometheusHistory, with_own_samples
from dashboard.listeners import Listeners
from dashboard.relay import merged
from dashboard.shapes import ErrorAnswer, ErrorBody, HistoryAnswer
from dashboard.static_files import (
    SECURITY_HEADERS,
    StaticFile,
    read_static_files,
    static_answer,
)
from dashboard.upstream import Upstream, UpstreamError

_MAX_BODY_BYTES = 64 << 10
_HANDED_DOWN = ("authorization", "content-type", "idempotency-key")
_HANDED_UP = ("content-type", "retry-after")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:#-]{1,200}")

Answer = Callable[[Request], Awaitable[Response]]


class Refusal(Exception):
    """What this server answers itself."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class DashboardParts:
    """What the routes answer from. operator_url: without a slash at the end. wall_s: seconds
    since 1970. prometheus: None where the control plane's own history is shown."""

    operator_url: str
    upstream: Upstream
    feed: GatewayFeed
    listeners: Listeners
    prometheus: PrometheusHistory | None
    wall_s: Callable[[], float]


def build_app(parts: DashboardParts) -> Starlette:
    """Every route; files are read once."""
    api = _Api(parts)
    files = read_static_files()
    handed = ("status", "decisions", "audit", "config", "what-if")
    return Starlette(
        routes=[
            *(Route(f"/{'' if n == 'index.html' else n}", _page(f)) for n, f in files.items()),
            Route("/livez", _livez),
            Route("/api/v1/events", api.events),
            Route("/api/v1/history", api.history),
            *(Route(f"/api/v1/{name}", api.handed, methods=["GET", "POST"]) for name in handed),
            Route("/api/v1/actions/{action}", api.handed, methods=["POST"]),
            Route("/api/requests/{request_id:path}", api.request),
        ],
        exception_handlers={Refusal: _refused, UpstreamError: _unreachable},
    )


class _Api:
    def __init__(self, parts: DashboardParts) -> None:
        self._parts = parts

    async def handed(self, request: Request) -> Response:
        """The operator API's answer to the same request, whoever asks."""
        body = await _body(request)
        url = f"{self._parts.operator_url}{request.url.path}"
        answer = await self._parts.upstream.ask(
            request.method, url, body, _headers_down(request), dict(request.query_params)
        )
        return _handed_up(answer)

    async def events(self, request: Request) -> Response:
        """The operator API's events, and between them `traffic` and `requests`."""
        parts = self._parts
        url = f"{parts.operator_url}/api/v1/events"
        answer = await parts.upstream.stream(url, _headers_down(request))
        if answer.status_code != 200:
            await answer.aread()
            await answer.aclose()
            return _handed_up(answer)
        frames: AsyncIterator[bytes] = merged(answer, parts.listeners)
        headers = {**SECURITY_HEADERS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(frames, media_type="text/event-stream", headers=headers)

    async def history(self, request: Request) -> Response:
        parts = self._parts
        minutes = _minutes(request)
        if parts.prometheus is not None:
            await self._check_reader(request)
            return _json(await parts.prometheus.read(parts.wall_s(), minutes))
        url = f"{parts.operator_url}/api/v1/history"
        answer = await parts.upstream.ask(
            "GET", url, headers=_headers_down(request), params={"minutes": str(minutes)}
        )
        if answer.status_code != 200:
            return _handed_up(answer)
        found = msgspec.json.decode(answer.content, type=dict[str, msgspec.Raw])
        columns = HistoryAnswer(
            source="the control plane",
            step_s=msgspec.json.decode(found["step_s"], type=float),
            at_s=msgspec.json.decode(found["at_s"], type=list[float]),
            series=msgspec.json.decode(found["series"], type=dict[str, list[float | None]]),
        )
        return _json(with_own_samples(columns, parts.feed.samples))

    async def request(self, request: Request) -> Response:
        """One request's trace, from whichever gateway ran it."""
        request_id = request.path_params["request_id"]
        if not _REQUEST_ID.fullmatch(request_id):
            raise Refusal(400, "invalid", "a request's id has 1 to 200 letters, digits, . _ : # -")
        await self._check_reader(request)
        found = await self._parts.feed.find(request_id)
        if found is None:
            text = f"no gateway remembers a request {request_id}; it keeps those that ended last"
            raise Refusal(404, "not_found", text)
        return Response(found, headers=dict(SECURITY_HEADERS), media_type="application/json")

    async def _check_reader(self, request: Request) -> None:
        """Who may read the operator API may read this. Raises Refusal."""
        url = f"{self._parts.operator_url}/api/v1/audit"
        answer = await self._parts.upstream.ask(
            "GET", url, headers=_headers_down(request), params={"limit": "1"}
        )
        if answer.status_code in (401, 403):
            raise Refusal(answer.status_code, "denied", "the control plane asks for a valid token")


def _page(file: StaticFile) -> Answer:
    async def page(request: Request) -> Response:
        return static_answer(request, file)

    return page


async def _livez(request: Request) -> Response:
    return Response(b'{"status":"alive"}', media_type="application/json")


async def _body(request: Request) -> bytes:
    """Raises Refusal for one that is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise Refusal(413, "too_large", f"the body has more than {_MAX_BODY_BYTES} bytes")
    return body


def _headers_down(request: Request) -> Mapping[str, str]:
    """What the operator API is told of who asks; the audit log names the browser's address."""
    headers = {name: request.headers[name] for name in _HANDED_DOWN if name in request.headers}
    where = request.client.host if request.client else "a browser"
    name = request.headers.get("x-operator", "").strip() or "operator"
    headers["x-operator"] = f"{name[:60]} (dashboard from {where})"
    return headers


def _handed_up(answer: httpx.Response) -> Response:
    headers = {name: answer.headers[name] for name in _HANDED_UP if name in answer.headers}
    headers |= {**SECURITY_HEADERS, "Cache-Control": "no-store"}
    return Response(answer.content, answer.status_code, headers)


def _minutes(request: Request) -> int:
    text = request.query_params.get("minutes", "15")
    if not text.isdecimal() or not 1 <= int(text[:6]) <= MAX_MINUTES:
        raise Refusal(400, "invalid", f"minutes must be in 1 .. {MAX_MINUTES}, is {text[:40]!r}")
    return int(text)


def _json(body: object, status: int = 200) -> Response:
    headers = {**SECURITY_HEADERS, "Cache-Control": "no-store"}
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _json(ErrorAnswer(error=ErrorBody(code=error.code, message=str(error))), error.status)


async def _unreachable(request: Request, error: Exception) -> Response:
    return _json(ErrorAnswer(error=ErrorBody(code="unreachable", message=str(error))), 502)
