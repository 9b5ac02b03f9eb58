"""Bad input: each gets an error in OpenAI's shape that names what is wrong, and no worker works."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from gateway.model_directory import ModelFiles, read_model_directory

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(model: ModelFiles, gateway_of: Callable[..., Any]) -> AsyncIterator[Any]:
    async with gateway_of(model, lambda _: []) as running:
        yield running


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "messages": MESSAGES, **fields}).encode()


def text(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "hi", **fields}).encode()


def content(value: Any) -> bytes:
    return chat(messages=[{"role": "user", "content": value}])


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def tool(name: str, kind: str = "function") -> dict[str, Any]:
    return {"type": kind, "function": {"name": name, "parameters": {"type": "object"}}}


SCHEMA_FIELD = "response_format.json_schema.schema"


# path, body, status, param, words of the message
ROWS: list[tuple[str, bytes, int, str | None, tuple[str, ...]]] = [
    (CHAT, b"", 400, None, ("not valid JSON",)),
    (CHAT, b'{"model": "tiny"', 400, None, ("not valid JSON",)),
    (CHAT, chat() + b"x", 400, None, ("not valid JSON",)),
    (CHAT, b"[]", 400, None, ("object", "array")),
    (CHAT, b'{"model": "ti\xff"}', 400, None, ("utf-8",)),
    (CHAT, b'{"model": "\\ud800", "messages": []}', 400, None, ("not valid JSON",)),
    (CHAT, b'{"model":' + b"[" * 50_000, 400, "model", ("str",)),
    (
        CHAT,
        chat(messages=[{"role": "user", "tool_calls": 0}]),
        400,
        "messages[0].tool_calls",
        ("int",),
    ),
    (CHAT, chat(colour="red"), 400, "colour", ("colour", "unknown field")),
    (CHAT, chat(messages=[{"role": "user", "content": "a", "x": 1}]), 400, "messages[0].x", ("x",)),
    (CHAT, b'{"model": "tiny"}', 400, "messages", ("messages", "required")),
    (CHAT, b'{"messages": []}', 400, "model", ("model", "required")),
    (TEXT, b'{"model": "tiny"}', 400, "prompt", ("prompt", "required")),
    (CHAT, chat(model="gpt-9"), 404, "model", ("gpt-9", "tiny")),
    (CHAT, chat(model=3), 400, "model", ("`str`", "`int`")),
    (CHAT, chat(messages=[]), 400, "messages", ("at least one",)),
    (CHAT, chat(messages="hi"), 400, "messages", ("array",)),
    (CHAT, chat(messages=[3]), 400, "messages[0]", ("object",)),
    (
        CHAT,
        chat(messages=[{"role": "wizard", "content": "a"}]),
        400,
        "messages[0].role",
        ("wizard",),
    ),
    (CHAT, chat(messages=[{"content": "a"}]), 400, "messages[0].role", ("role",)),
    (CHAT, content(None), 400, "messages[0].content", ("null",)),
    (CHAT, content(7), 400, "messages[0].content", ("int",)),
    (CHAT, content([{"type": "text"}]), 400, "messages[0].content", ("text",)),
    (
        CHAT,
        content([{"type": "image_url", "image_url": {"url": "x"}}]),
        400,
        "messages[0].content",
        ("image_url", "not supported"),
    ),
    (CHAT, chat(max_tokens="9"), 400, "max_tokens", ("`int", "`str`")),
    (CHAT, chat(max_tokens=1.5), 400, "max_tokens", ("float",)),
    (CHAT, chat(max_tokens=True), 400, "max_tokens", ("bool",)),
    (CHAT, chat(max_tokens=0), 400, "max_tokens", ("at least 1", "is 0")),
    (CHAT, chat(max_tokens=-5), 400, "max_tokens", ("is -5",)),
    (CHAT, chat(max_tokens=10**30), 400, "max_tokens", ("at most",)),
    (CHAT, chat(max_completion_tokens=0), 400, "max_completion_tokens", ("at least 1",)),
    (CHAT, chat(temperature=-0.1), 400, "temperature", ("at least 0", "at most 2", "is -0.1")),
    (CHAT, chat(temperature=2.1), 400, "temperature", ("is 2.1",)),
    (CHAT, chat(temperature="hot"), 400, "temperature", ("float",)),
    (CHAT, chat(temperature=float("nan")), 400, None, ("not valid JSON",)),
    (CHAT, chat(temperature=float("inf")), 400, None, ("not valid JSON",)),
    (CHAT, chat()[:-1] + b', "temperature": 1e999}', 400, "temperature", ("range",)),
    (CHAT, chat(top_p=0), 400, "top_p", ("greater than 0",)),
    (CHAT, chat(top_p=1.01), 400, "top_p", ("at most 1",)),
    (CHAT, chat(top_k=-2), 400, "top_k", ("at least -1",)),
    (CHAT, chat(min_p=1.5), 400, "min_p", ("at most 1",)),
    (CHAT, chat(presence_penalty=-2.5), 400, "presence_penalty", ("at least -2",)),
    (CHAT, chat(frequency_penalty=3), 400, "frequency_penalty", ("at most 2",)),
    (CHAT, chat(repetition_penalty=0), 400, "repetition_penalty", ("greater than 0",)),
    (CHAT, chat(min_tokens=-1), 400, "min_tokens", ("at least 0",)),
    (CHAT, chat(min_tokens=9, max_tokens=5), 400, "min_tokens", ("9", "5")),
    (CHAT, chat(seed=2**63), 400, "seed", ("at most",)),
    (CHAT, chat(priority=2**40), 400, "priority", ("at most",)),
    (CHAT, chat(n=0), 400, "n", ("at least 1",)),
    (CHAT, chat(n=129), 400, "n", ("at most 128",)),
    (TEXT, text(n=64, prompt=["a", "b", "c"]), 400, "n", ("192", "128")),
    (TEXT, text(best_of=3), 400, "best_of", ("best_of must be n",)),
    (CHAT, chat(stop=["a"] * 17), 400, "stop", ("17", "16")),
    (CHAT, chat(stop=""), 400, "stop", ("empty",)),
    (CHAT, chat(stop=[1]), 400, "stop[0]", ("str",)),
    (CHAT, chat(stop_token_ids=[-1]), 400, "stop_token_ids", ("-1",)),
    (CHAT, chat(stop_token_ids=[10**9]), 400, "stop_token_ids", ("1000000000",)),
    (CHAT, chat(stream_options={"include_usage": True}), 400, "stream_options", ("stream",)),
    (
        CHAT,
        chat(stream=True, stream_options={"every": 1}),
        400,
        "stream_options.every",
        ("every",),
    ),
    (CHAT, chat(logprobs=True, top_logprobs=21), 400, "top_logprobs", ("at most 20",)),
    (CHAT, chat(top_logprobs=2), 400, "top_logprobs", ("needs logprobs",)),
    (CHAT, chat(logprobs=1), 400, "logprobs", ("bool",)),
    (TEXT, text(logprobs=21), 400, "logprobs", ("at most 20",)),
    (TEXT, text(logprobs=True), 400, "logprobs", ("bool",)),
    (TEXT, text(echo=True, logprobs=1), 400, "echo", ("echo with logprobs",)),
    (TEXT, text(suffix="x"), 400, "suffix", ("suffix is not supported",)),
    (CHAT, chat(logit_bias={"a": 5}), 400, "logit_bias", ("'a'", "token ids")),
    (CHAT, chat(logit_bias={"999999999": 5}), 400, "logit_bias", ("999999999",)),
    (CHAT, chat(logit_bias={"1": 101}), 400, "logit_bias", ("-100 to 100", "101")),
    (CHAT, chat(return_token_ids="yes"), 400, "return_token_ids", ("bool",)),
    (CHAT, chat(tools=[{"type": "function"}]), 400, "tools[0].function", ("required",)),
    (CHAT, chat(tools=[tool("f")]), 400, "tools", ("no tool calls",)),
    (CHAT, chat(tools=[tool("f"), tool("f")]), 400, "tools[1].function.name", ("once",)),
    (CHAT, chat(tools=[tool("f", "code")]), 400, "tools[0].type", ("'code'",)),
    (CHAT, chat(tools=[tool(f"f{i}") for i in range(129)]), 400, "tools", ("129", "128")),
    (CHAT, chat(tool_choice="required"), 400, "tool_choice", ("offers none",)),
    (CHAT, chat(tool_choice="maybe"), 400, "tool_choice", ("none, auto, required",)),
    (
        CHAT,
        chat(
            tools=[tool("f")],
            tool_choice={"type": "function", "function": {"name": "g"}},
        ),
        400,
        "tool_choice",
        ("'g'", "no such tool"),
    ),
    (CHAT, chat(chat_template_kwargs={"tools": 1}), 400, "chat_template_kwargs", ("tools",)),
    (CHAT, chat(response_format={"type": "xml"}), 400, "response_format.type", ("'xml'",)),
    (CHAT, chat(response_format={"type": "json_schema"}), 400, "response_format.json_schema", ()),
    (
        CHAT,
        chat(response_format=schema_format({"type": "prose"})),
        400,
        "response_format.json_schema.schema",
        ("cannot be compiled", "prose"),
    ),
    (CHAT, chat(response_format=schema_format([1])), 400, SCHEMA_FIELD, ("an object",)),
    (
        CHAT,
        chat(response_format={"type": "json_schema", "json_schema": {}}),
        400,
        "response_format.json_schema.name",
        ("required",),
    ),
    (TEXT, text(guided_regex="(a"), 400, "guided_regex", ("unclosed group",)),
    (TEXT, text(guided_regex="a" * 70_000), 413, None, ("body",)),
    (TEXT, text(guided_regex="(?=a)b"), 400, "guided_regex", ("look-around",)),
    (TEXT, text(guided_json="{"), 400, "guided_json", ("not valid JSON",)),
    (TEXT, text(guided_choice=[]), 400, "guided_choice", ("not empty",)),
    (TEXT, text(guided_choice=["a", 1]), 400, "guided_choice[1]", ("str",)),
    (TEXT, text(guided_grammar="start: nothing"), 400, "guided_grammar", ("nothing",)),
    (TEXT, text(structured_outputs={"xml": 1}), 400, "structured_outputs.xml", ("xml",)),
    (
        TEXT,
        text(structured_outputs={"regex": "a"}, guided_choice=["b"]),
        400,
        "structured_outputs.regex",
        ("guided_choice and structured_outputs.regex",),
    ),
    (TEXT, text(guided_regex="a", min_tokens=2), 400, "min_tokens", ("guided_regex",)),
    (TEXT, text(guided_regex="a", ignore_eos=True), 400, "ignore_eos", ("guided_regex",)),
    (CHAT, chat(cache_salt="s" * 257), 400, "cache_salt", ("256",)),
    (CHAT, chat(metadata={"a": 1}), 400, "metadata[...]", ("str",)),
    (TEXT, text(prompt=""), 400, "prompt", ("no tokens",)),
    (TEXT, text(prompt=[]), 400, "prompt", ("empty",)),
    (TEXT, text(prompt=[[]]), 400, "prompt", ("no tokens",)),
    (TEXT, text(prompt=["a", 1]), 400, "prompt", ("all strings",)),
    (TEXT, text(prompt=[1.5]), 400, "prompt[0]", ("float",)),
    (TEXT, text(prompt=[-1]), 400, "prompt", ("-1",)),
    (TEXT, text(prompt=[10**9]), 400, "prompt", ("1000000000",)),
    (TEXT, text(prompt=["a"] * 129), 400, "prompt", ("129", "128")),
    (TEXT, text(prompt=[5] * 200, max_tokens=57), 400, "prompt", ("256", "257", "200", "57")),
    (TEXT, text(prompt=[5] * 256), 400, "prompt", ("256", "257")),
    (CHAT, content("the pool " * 300), 400, "messages", ("256",)),
]


@pytest.mark.parametrize(("path", "body", "status", "param", "words"), ROWS)
async def test_bad_input_is_refused_with_a_clear_error(
    gateway: Any, path: str, body: bytes, status: int, param: str | None, words: tuple[str, ...]
) -> None:
    response = await gateway.client.post(path, content=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    for word in words:
        assert word in error["message"], error
    assert gateway.router.requests == []


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (CHAT, chat(model="gpt-9"), "model_not_found"),
        (TEXT, text(prompt=[5] * 256), "context_length_exceeded"),
        (CHAT, chat(colour=1), "unknown_field"),
        (CHAT, b"{", "invalid_json"),
    ],
)
async def test_errors_that_clients_act_on_have_codes(
    gateway: Any, path: str, body: bytes, code: str
) -> None:
    response = await gateway.client.post(path, content=body)
    assert response.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/images", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/gpt-9", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/metrics", 405),
    ],
)
async def test_unknown_routes_and_methods_answer_in_openais_shape(
    gateway: Any, method: str, path: str, status: int
) -> None:
    response = await gateway.client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("size", [65 << 10, 1 << 20, 8 << 20])
@pytest.mark.parametrize("has_length", [True, False])
async def test_a_body_over_the_limit_is_a_413_with_or_without_a_length(
    gateway: Any, size: int, has_length: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(0, size, 1 << 10):
            yield b" " * (1 << 10)

    body = b" " * size if has_length else pieces()
    try:
        response = await gateway.client.post(CHAT, content=body)
    except OSError:
        pytest.fail("the connection broke before the answer was read")
    assert response.status_code == 413
    assert str(64 << 10) in response.json()["error"]["message"]


async def test_an_oversized_body_that_waits_for_leave_is_never_sent(gateway: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        b"Content-Length: 9999999\r\n\r\n"
    )
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_a_body_that_does_not_come_is_a_408(
    model: ModelFiles, gateway_of: Callable[..., Any]
) -> None:
    async with gateway_of(model, lambda _: [], body_timeout_s=0.05) as slow:
        reader, writer = await asyncio.open_connection("127.0.0.1", slow.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_the_workers_context_limits_a_request_when_it_is_smaller(
    model: ModelFiles, gateway_of: Callable[..., Any]
) -> None:
    async with gateway_of(model, lambda _: []) as running:
        running.router.max_model_len = 100
        body = {"model": "tiny", "prompt": [5] * 90, "max_tokens": 11}
        response = await running.client.post(TEXT, json=body)
        assert response.status_code == 400
        assert "100" in response.json()["error"]["message"]
        cards = (await running.client.get("/v1/models")).json()["data"]
        assert cards[0]["max_model_len"] == 100


async def test_a_model_without_a_chat_template_refuses_chat_and_says_why(
    byte_level_tokenizer: Tokenizer,
    tmp_path: Path,
    write_model: Callable[..., Path],
    gateway_of: Callable[..., Any],
) -> None:
    path = write_model(tmp_path / "plain", byte_level_tokenizer, chat_template=None)
    async with gateway_of(read_model_directory(path), lambda _: []) as running:
        response = await running.client.post(CHAT, content=chat(model="plain"))
        assert response.status_code == 400
        assert "no chat template" in response.json()["error"]["message"]


async def test_messages_that_the_template_refuses_are_a_400_with_its_reason(
    byte_level_tokenizer: Tokenizer,
    tmp_path: Path,
    write_model: Callable[..., Path],
    gateway_of: Callable[..., Any],
) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    path = write_model(tmp_path / "strict", byte_level_tokenizer, chat_template=template)
    async with gateway_of(read_model_directory(path), lambda _: []) as running:
        response = await running.client.post(CHAT, content=chat(model="strict"))
        assert response.status_code == 400
        assert "roles must alternate" in response.json()["error"]["message"]
