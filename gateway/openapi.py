"""The OpenAPI document, made from the same types that bodies are read and written with."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.anthropic_body import CountTokensBody, MessagesBody
from gateway.anthropic_events import AnswerMessage, MessagesError, MessagesEvent
from gateway.chat_replies import ChatReply, Chunk
from gateway.errors import ErrorBody
from gateway.openai import ChatBody, CompletionBody
from gateway.prepare import TokenCount
from gateway.responses_body import ResponsesBody
from gateway.responses_events import Response, ResponseEvent
from gateway.text_replies import TextReply
from gateway.token_pages import DetokenizeBody, DetokenizeReply, TokenizeBody, TokenizeReply

_REFERENCE = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True)
class _Operation:
    """events: the type of a streamed answer's events; reply None: any JSON object."""

    method: str
    path: str
    summary: str
    body: type | None = None
    reply: type | None = None
    events: Any = None
    failure: type = ErrorBody
    media: str = "application/json"
    parameters: tuple[str, ...] = ()
    query: tuple[str, ...] = ()


_OPERATIONS = (
    _Operation(
        "post", "/v1/chat/completions", "The answer to a conversation", ChatBody, ChatReply, Chunk
    ),
    _Operation(
        "post", "/v1/completions", "What follows a prompt", CompletionBody, TextReply, TextReply
    ),
    _Operation(
        "post", "/v1/responses", "The next response", ResponsesBody, Response, ResponseEvent
    ),
    _Operation(
        "post",
        "/v1/messages",
        "The next message",
        MessagesBody,
        AnswerMessage,
        MessagesEvent,
        failure=MessagesError,
    ),
    _Operation(
        "post",
        "/v1/messages/count_tokens",
        "A prompt's length",
        CountTokensBody,
        TokenCount,
        failure=MessagesError,
    ),
    _Operation("post", "/v1/embeddings", "Refused: the model makes no embeddings"),
    _Operation("post", "/tokenize", "A prompt's tokens", TokenizeBody, TokenizeReply),
    _Operation("post", "/detokenize", "The text of tokens", DetokenizeBody, DetokenizeReply),
    _Operation("get", "/v1/models", "The models of this server"),
    _Operation("get", "/v1/models/{model_id}", "One model", parameters=("model_id",)),
    _Operation("get", "/debug/requests", "How the latest ran", query=("order", "limit")),
    _Operation("get", "/debug/requests/{request_id}", "How one ran", parameters=("request_id",)),
    _Operation("get", "/livez", "Whether the process runs"),
    _Operation("get", "/readyz", "Whether a worker is live; 503 if none is"),
    _Operation("get", "/version", "This server's version"),
    _Operation("get", "/metrics", "Metrics in the format of Prometheus", media="text/plain"),
)


def openapi_document(version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    types = {
        kind: None
        for operation in _OPERATIONS
        for kind in (operation.body, operation.reply, operation.events, operation.failure)
        if kind is not None
    }
    references, components = msgspec.json.schema_components(list(types), ref_template=_REFERENCE)
    schemas = dict(zip(types, references, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Baton", "version": version},
        "paths": {
            operation.path: {operation.method: _described(operation, schemas)}
            for operation in _OPERATIONS
        },
        "components": {"schemas": components},
    }


def _described(operation: _Operation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    reply = {"type": "object"} if operation.reply is None else schemas[operation.reply]
    if operation.media != "application/json":
        reply = {"type": "string"}
    content = {operation.media: {"schema": reply}}
    if operation.events is not None:
        content["text/event-stream"] = {"schema": schemas[operation.events]}
    failure = {"application/json": {"schema": schemas[operation.failure]}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "The answer", "content": content},
            "default": {"description": "A failure", "content": failure},
        },
    }
    if operation.body is not None:
        body = {"application/json": {"schema": schemas[operation.body]}}
        described["requestBody"] = {"required": True, "content": body}
    if operation.parameters or operation.query:
        described["parameters"] = [
            {"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}}
            for place, names in (("path", operation.parameters), ("query", operation.query))
            for name in names
        ]
    return described


def docs_page(document: Mapping[str, Any]) -> str:
    """The document as one page of HTML that loads nothing else."""
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(operation['summary'])}</td></tr>"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    types = [
        _type_section(name, schema)
        for name, schema in sorted(document["components"]["schemas"].items())
    ]
    return _PAGE.format(title=title, rows="".join(rows), types="".join(types))


def _type_section(name: str, schema: Mapping[str, Any]) -> str:
    required: Sequence[str] = schema.get("required", ())
    rows = [
        f"<tr><td><code>{html.escape(field)}</code></td><td>{_type_name(of)}</td>"
        f"<td>{'required' if field in required else ''}</td></tr>"
        for field, of in schema.get("properties", {}).items()
    ]
    about = html.escape(schema.get("description", ""))
    title = f'<h2 id="{html.escape(name)}">{html.escape(name)}</h2>'
    return f"{title}<p>{about}</p><table>{''.join(rows)}</table>"


def _type_name(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rsplit("/", 1)[1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type_name(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type_name(schema.get('items') or {})}"
    if "enum" in schema:
        return html.escape(", ".join(map(str, schema["enum"])))
    return html.escape(str(schema.get("type", "anything")))


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
td{{padding:.1em 1em .1em 0;vertical-align:top}}</style>
<h1>{title}</h1><p>The whole document: <a href="/openapi.json">/openapi.json</a></p>
<table>{rows}</table>{types}</html>
"""
