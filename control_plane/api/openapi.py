"""The OpenAPI document, made from the types that are read and written."""

from dataclasses import dataclass
from typing import Any

import msgspec

from control_plane.api.bodies import ACTIONS, WhatIfBody
from control_plane.api.history import MAX_MINUTES
from control_plane.api.shapes import (
    ActionResult,
    AuditEntry,
    AuditView,
    DecisionsView,
    DecisionView,
    ErrorView,
    FlipEvent,
    HistoryView,
    StatusDelta,
    StatusView,
    WhatIfAnswer,
)
from control_plane.planner.config import PlannerConfig

_REFERENCE = "#/components/schemas/{name}"
_EVENTS = (StatusDelta, DecisionView, FlipEvent, AuditEntry)


@dataclass(frozen=True, slots=True)
class _Operation:
    """query: name, default and highest value of a number, if there is one."""

    method: str
    path: str
    summary: str
    reply: type
    body: type | None = None
    query: tuple[str, int, int] | None = None
    acts: bool = False


_OPERATIONS = (
    _Operation("get", "/api/v1/status", "The whole cluster", StatusView),
    _Operation(
        "get",
        "/api/v1/decisions",
        "What the planner decided, the newest first",
        DecisionsView,
        query=("limit", 50, 1000),
    ),
    _Operation(
        "get",
        "/api/v1/history",
        "The last minutes as columns",
        HistoryView,
        query=("minutes", 15, MAX_MINUTES),
    ),
    _Operation(
        "get",
        "/api/v1/audit",
        "What operators did, the newest first",
        AuditView,
        query=("limit", 50, 1000),
    ),
    _Operation("get", "/api/v1/config", "The planner's configuration", PlannerConfig),
    _Operation("put", "/api/v1/config", "Replace it", PlannerConfig, body=PlannerConfig, acts=True),
    _Operation(
        "post",
        "/api/v1/what-if",
        "The planner's answer for a supposed load",
        WhatIfAnswer,
        body=WhatIfBody,
    ),
    *(
        _Operation(
            "post",
            f"/api/v1/actions/{name}",
            (body.__doc__ or name).strip().splitlines()[0],
            ActionResult,
            body=body,
            acts=True,
        )
        for name, body in ACTIONS.items()
    ),
)


def openapi_document(version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    used = [kind for operation in _OPERATIONS for kind in (operation.reply, operation.body) if kind]
    types = list(dict.fromkeys([*used, ErrorView, *_EVENTS]))
    references, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schemas = dict(zip(types, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in _OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, schemas)
    paths["/api/v1/events"] = {"get": _events(schemas)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Baton operator API", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: _Operation, schemas: dict[type, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": _answer("The answer", schemas[operation.reply]),
            "default": _answer("Why not", schemas[ErrorView]),
        },
    }
    if operation.acts:
        described["security"] = [{"operator": []}]
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[operation.body]}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.query is not None:
        described["parameters"] = [_parameter(*operation.query)]
    if operation.path.startswith("/api/v1/actions/"):
        described["parameters"] = [_KEY]
    return described


_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 200},
}


def _parameter(name: str, default: int, highest: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": highest, "default": default}
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _events(schemas: dict[type, Any]) -> dict[str, Any]:
    schema = {"anyOf": [schemas[kind] for kind in _EVENTS]}
    return {
        "summary": "Events status, decision, flip and action as they come",
        "responses": {
            "200": {
                "description": "A stream",
                "content": {"text/event-stream": {"schema": schema}},
            },
            "default": _answer("Why not", schemas[ErrorView]),
        },
    }


def _answer(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
