"""The operator API's routes: who asks, what is asked, and the answer as JSON."""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from control_plane.api.access import Access, Denied, who_asks
from control_plane.api.audit import AuditLog
from control_plane.api.bodies import ACTIONS, WhatIfBody
from control_plane.api.config_page import invalid_field, read_config
from control_plane.api.delta import status_delta
from control_plane.api.desk import ActionDesk
from control_plane.api.events import EventHub, TooManyListeners, event_bytes
from control_plane.api.history import MAX_MINUTES, History
from control_plane.api.idempotency import MAX_KEY_CHARS, Idempotency
from control_plane.api.openapi import openapi_document
from control_plane.api.refusal import Refused
from control_plane.api.shapes import AuditView, DecisionsView, ErrorBody, ErrorView, StatusView
from control_plane.api.source import OperatorSource
from control_plane.leadership import holder_url
from control_plane.planning import Planning, SupposedLoad
from wire.errors import BatonError

MAX_BODY_BYTES = 64 << 10
MAX_LIMIT = 1000
_STATUS = {
    "invalid": 400,
    "not_found": 404,
    "too_large": 413,
    "idempotency_key_reused": 422,
    "not_leader": 503,
    "unavailable": 503,
    "too_many_listeners": 503,
}  # any other refusal: 409

T = TypeVar("T")
Answer = Callable[[Request], Awaitable[Response]]


@dataclasses.dataclass(frozen=True, slots=True)
class ApiParts:
    """What the routes answer from; first_view: what a listener starts from. wall_s: seconds
    since 1970. leader_elsewhere: the holder's name where another process leads, else empty."""

    source: OperatorSource
    desk: ActionDesk
    audit: AuditLog
    history: History
    events: EventHub
    first_view: Callable[[], Awaitable[StatusView]]
    planning: Planning
    access: Access
    wall_s: Callable[[], float]
    leader_elsewhere: Callable[[], str]


def build_app(parts: ApiParts, version: str) -> Starlette:
    """Every route of the API, and its OpenAPI document."""
    api = _Api(parts)
    document = msgspec.json.encode(openapi_document(version))

    async def openapi(request: Request) -> Response:
        return Response(document, media_type="application/json")

    def read(path: str, answer: Answer, method: str = "GET") -> Route:
        return Route(path, api.reads(answer), methods=[method])

    return Starlette(
        routes=[
            Route("/openapi.json", openapi),
            read("/api/v1/status", api.status),
            read("/api/v1/decisions", api.decisions),
            read("/api/v1/history", api.history),
            read("/api/v1/events", api.events),
            read("/api/v1/audit", api.audit),
            read("/api/v1/config", api.get_config),
            read("/api/v1/what-if", api.what_if, "POST"),
            Route("/api/v1/config", api.acts(api.put_config), methods=["PUT"]),
            Route("/api/v1/actions/{action}", api.acts(api.action), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _http_error},
    )


class _Api:
    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._idempotency = Idempotency()

    def reads(self, answer: Answer) -> Answer:
        """Checks who reads, and turns refusals into answers."""
        return _guarded(self._parts.access.check_read, self._led(answer))

    def acts(self, answer: Answer) -> Answer:
        return _guarded(self._parts.access.check_action, self._led(answer))

    def _led(self, answer: Answer) -> Answer:
        """The leader hears the workers and may act: whoever asks another one is sent there."""

        async def led(request: Request) -> Response:
            holder = self._parts.leader_elsewhere()
            if not holder:
                return await answer(request)
            message = f"{holder} leads and answers operators"
            if not (url := holder_url(holder)):
                raise Refused(f"{message}; it tells no address", code="not_leader")
            query = f"?{request.url.query}" if request.url.query else ""
            headers = {"Location": f"{url}{request.url.path}{query}"}
            return _error(307, ErrorBody(code="not_leader", message=message), headers)

        return led

    async def status(self, request: Request) -> Response:
        return _json(await self._parts.source.status())

    async def decisions(self, request: Request) -> Response:
        limit = _number(request, "limit", 50, MAX_LIMIT)
        return _json(DecisionsView(decisions=self._parts.source.decisions(limit)))

    async def history(self, request: Request) -> Response:
        minutes = _number(request, "minutes", 15, MAX_MINUTES)
        return _json(self._parts.history.since(self._parts.wall_s() - 60 * minutes))

    async def audit(self, request: Request) -> Response:
        limit = _number(request, "limit", 50, MAX_LIMIT)
        return _json(AuditView(entries=self._parts.audit.newest(limit)))

    async def events(self, request: Request) -> Response:
        """The whole status first, then what changes."""
        first = status_delta(None, await self._parts.first_view())
        try:
            frames = self._parts.events.listen(event_bytes("status", first))
        except TooManyListeners as error:
            raise Refused(str(error), code="too_many_listeners") from error
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(frames, media_type="text/event-stream", headers=headers)

    async def get_config(self, request: Request) -> Response:
        return _json(self._parts.planning.config())

    async def put_config(self, request: Request) -> Response:
        config = read_config(await _body(request))
        await self._parts.desk.configure(config, who_asks(request))
        return _json(self._parts.planning.config())

    async def what_if(self, request: Request) -> Response:
        body = _decode(await _body(request), WhatIfBody)
        load = SupposedLoad(
            body.requests_s,
            body.prompt_tokens,
            body.output_tokens,
            body.cached_share,
            body.ttft_slo_ms / 1e3,
            body.tpot_slo_ms / 1e3,
        )
        return _json(self._parts.source.what_if(load))

    async def action(self, request: Request) -> Response:
        name = request.path_params["action"]
        if name not in ACTIONS:
            raise Refused(
                f"there is no action {name!r}; there are {', '.join(ACTIONS)}", code="not_found"
            )
        raw = await _body(request)
        body = _decode(raw or b"{}", ACTIONS[name])
        key = request.headers.get("idempotency-key", "")
        if len(key) > MAX_KEY_CHARS:
            raise Refused(
                f"the key has {len(key)} characters",
                code="invalid",
                field="Idempotency-Key",
                limit=f"{MAX_KEY_CHARS} characters",
            )
        who = who_asks(request)
        asked = name.encode() + b"\n" + msgspec.json.encode(body)
        return _json(
            await self._idempotency.once(
                key, asked, lambda: self._parts.desk.act(name, body, who, key)
            )
        )


def _guarded(check: Callable[[Request], None], answer: Answer) -> Answer:
    async def guarded(request: Request) -> Response:
        try:
            check(request)
            return await answer(request)
        except Denied as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
            code = "unauthorized" if error.status == 401 else "forbidden"
            return _error(error.status, ErrorBody(code=code, message=error.message), headers)
        except Refused as error:
            body = ErrorBody(
                code=error.code, message=error.message, field=error.field, limit=error.limit
            )
            return _error(_STATUS.get(error.code, 409), body)
        except BatonError as error:
            return _error(503, ErrorBody(code=error.code.value, message=error.message))

    return guarded


async def _http_error(request: Request, error: Exception) -> Response:
    """No such route, or a method that it does not take."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _error(error.status_code, ErrorBody(code=code, message=message), error.headers)


async def _body(request: Request) -> bytes:
    """Raises Refused over 64 KiB."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            limit = f"{MAX_BODY_BYTES} bytes"
            raise Refused(f"the body is over {limit}", code="too_large", limit=limit)
    return bytes(content)


def _decode(raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise invalid_field(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"the body is no JSON: {error}", code="invalid") from error


def _number(request: Request, name: str, default: int, highest: int) -> int:
    """A number from 1 to highest. Raises Refused naming the parameter."""
    given = request.query_params.get(name, str(default))
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= highest:
        limit = f"1 to {highest}"
        raise Refused(f"{name} is {given!r}, not {limit}", code="invalid", field=name, limit=limit)
    return int(given)


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _error(status: int, error: ErrorBody, headers: Any = None) -> Response:
    content = msgspec.json.encode(ErrorView(error=error))
    return Response(content, status, headers=headers, media_type="application/json")
