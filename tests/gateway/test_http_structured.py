"""What a request asks of its answer's form reaches the workers as one grammar."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from router.output import OutputDelta
from wire.messages import GrammarKind

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}

# The body's fields, and the grammar's kind and text.
ROWS: list[tuple[dict[str, Any], GrammarKind, str]] = [
    (
        {"response_format": {"type": "json_object"}},
        GrammarKind.JSON_SCHEMA,
        '{"type": "object"}',
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
            }
        },
        GrammarKind.JSON_SCHEMA,
        json.dumps(SCHEMA, separators=(",", ":")),
    ),
    ({"guided_json": SCHEMA}, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA, separators=(",", ":"))),
    ({"guided_json": json.dumps({"type": "null"})}, GrammarKind.JSON_SCHEMA, '{"type":"null"}'),
    ({"guided_json": True}, GrammarKind.JSON_SCHEMA, "{}"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        GrammarKind.JSON_SCHEMA,
        "{}",
    ),
    ({"guided_regex": "[a-z]+"}, GrammarKind.REGEX, "[a-z]+"),
    ({"guided_choice": ["yes", 'n"o']}, GrammarKind.LARK, r'start: "yes" | "n\"o"'),
    ({"guided_grammar": 'start: "x"'}, GrammarKind.LARK, 'start: "x"'),
    ({"structured_outputs": {"regex": "[0-9]"}}, GrammarKind.REGEX, "[0-9]"),
    (
        {"structured_outputs": {"json_object": True}},
        GrammarKind.JSON_SCHEMA,
        '{"type": "object"}',
    ),
]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "kind", "text"), ROWS)
async def test_each_way_to_ask_for_a_form_gives_its_grammar(
    start_gateway: Callable[..., Any],
    answer_of: Callable[..., list[OutputDelta]],
    path: str,
    stream: bool,
    fields: dict[str, Any],
    kind: GrammarKind,
    text: str,
) -> None:
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        base = {"messages": HELLO} if path == CHAT else {"prompt": "the relay"}
        body = {"model": "tiny", "stream": stream, **base, **fields}
        response = await gateway.client.post(path, json=body)
        assert response.status_code == 200, response.text
        [request] = gateway.router.requests
    assert request.sampling.grammar is not None
    assert (request.sampling.grammar.kind, request.sampling.grammar.text) == (kind, text)


async def test_a_gbnf_grammar_is_taken_as_lark(
    start_gateway: Callable[..., Any], answer_of: Callable[..., list[OutputDelta]]
) -> None:
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        body = {"model": "tiny", "prompt": "x", "guided_grammar": 'root ::= "a" | "b"'}
        assert (await gateway.client.post(TEXT, json=body)).status_code == 200
        [request] = gateway.router.requests
    assert request.sampling.grammar.kind is GrammarKind.LARK
    assert "start:" in request.sampling.grammar.text


@pytest.mark.parametrize(
    "fields",
    [{}, {"response_format": {"type": "text"}}, {"response_format": None, "guided_json": None}],
)
async def test_an_answer_of_free_form_has_no_grammar(
    start_gateway: Callable[..., Any],
    answer_of: Callable[..., list[OutputDelta]],
    fields: dict[str, Any],
) -> None:
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        body = {"model": "tiny", "messages": HELLO, **fields}
        assert (await gateway.client.post(CHAT, json=body)).status_code == 200
        assert gateway.router.requests[0].sampling.grammar is None


async def test_the_server_answers_others_while_a_grammar_compiles(
    start_gateway: Callable[..., Any], answer_of: Callable[..., list[OutputDelta]]
) -> None:
    properties = {
        f"p{i}": {"type": "string", "pattern": f"^[a-z]{{1,{i + 1}}}$"} for i in range(400)
    }
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        body = {"model": "tiny", "prompt": "x", "guided_json": {"properties": properties}}
        response = await gateway.client.post(TEXT, json=body)
        assert response.status_code in (200, 400)
        assert (await gateway.client.get("/livez")).status_code == 200
