"""Whatever the body, the server answers with an error in OpenAI's shape and never with a 500."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.anthropic_body import MessagesBody
from gateway.model_directory import ModelFiles
from gateway.openai import ChatBody, CompletionBody
from gateway.responses_body import ResponsesBody

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
SHAPES = [
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    [{"type": "function", "function": {"name": "f"}}],
    {"type": "function", "function": {"name": "f"}},
    {"regex": "a+"},
    {"1": 5},
    "start: X",
    "(",
    "required",
]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["tiny", "user", "text", "hi"])
    | st.sampled_from(SHAPES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "stop",
        "stop_token_ids",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "min_tokens",
        "stream",
        "ignore_eos",
        "stream_options",
        "user",
        "priority",
        "cache_salt",
        "metadata",
        "echo",
        "logprobs",
        "suffix",
        "best_of",
        "response_format",
        "tools",
        "tool_choice",
        "logit_bias",
        "top_logprobs",
        "return_token_ids",
        "parallel_tool_calls",
        "chat_template_kwargs",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "zzz",
    ]
)


@settings(suppress_health_check=list(HealthCheck), max_examples=150)
@given(
    path=st.sampled_from([CHAT, TEXT]),
    fields=st.dictionaries(FIELDS, JSON, max_size=4),
    is_valid_base=st.booleans(),
)
async def test_no_json_body_gives_a_500(
    echoing_gateway: Any, path: str, fields: dict[str, Any], is_valid_base: bool
) -> None:
    base = {"model": "tiny", "messages" if path == CHAT else "prompt": MESSAGES}
    if path == TEXT:
        base["prompt"] = "hi"
    body = {**base, **fields} if is_valid_base else fields
    response = await echoing_gateway.client.post(path, content=json.dumps(body).encode())
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@settings(suppress_health_check=list(HealthCheck), max_examples=100)
@given(
    body=st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode(errors="replace"))
)
async def test_no_bytes_give_a_500(echoing_gateway: Any, body: bytes) -> None:
    response = await echoing_gateway.client.post(CHAT, content=body)
    assert response.status_code == 400


BASES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": MESSAGES},
    TEXT: {"model": "tiny", "prompt": "hi"},
    "/v1/responses": {"model": "tiny", "input": MESSAGES},
    "/v1/messages": {"model": "tiny", "messages": MESSAGES, "max_tokens": 5},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": MESSAGES},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [300]},
}
KNOWN: dict[str, list[str]] = {
    CHAT: list(ChatBody.__struct_fields__),
    TEXT: list(CompletionBody.__struct_fields__),
    "/v1/responses": list(ResponsesBody.__struct_fields__),
    "/v1/messages": list(MessagesBody.__struct_fields__),
    "/v1/messages/count_tokens": list(MessagesBody.__struct_fields__),
    "/tokenize": ["prompt", "messages", "tools", "add_special_tokens", "return_token_strs"],
    "/detokenize": ["tokens", "model"],
}
LEAVES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**64), 10**40, 0.5, 1e308, "", "hi", "tiny",
    "user", "assistant", "tool", "text", "function", "auto", "required", "\u0000", "\ud800",
    "é" * 9, [], {},
]  # fmt: skip
KEYS = ["type", "text", "role", "content", "name", "function", "input", "output", "id", "zzz"]


def made_up(random: Random, depth: int = 0) -> Any:
    kind = random.random()
    if depth > 2 or kind < 0.5:
        return random.choice(LEAVES)
    if kind < 0.6:
        return random.choice(SHAPES)
    children = [made_up(random, depth + 1) for _ in range(random.randint(1, 3))]
    return children if kind < 0.8 else dict(zip(random.sample(KEYS, 3), children, strict=False))


def made_up_body(random: Random, path: str) -> bytes:
    """A body that is mostly right, with some fields replaced and sometimes bytes changed."""
    body = dict(BASES[path])
    for _ in range(random.randint(0, 3)):
        body[random.choice([*KNOWN[path], "zzz"])] = made_up(random)
    raw = bytearray(json.dumps(body).encode())
    if random.random() < 0.1:
        for _ in range(random.randint(1, 4)):
            raw[random.randrange(len(raw))] = random.randrange(256)
    return bytes(raw)


async def fuzzed(gateway: Any, num_bodies: int) -> None:
    """Sends bodies on several connections; afterwards the server answers as before."""
    random = Random(num_bodies)

    async def send(count: int) -> None:
        for _ in range(count):
            path = random.choice(list(BASES))
            body = made_up_body(random, path)
            response = await gateway.client.post(path, content=body)
            assert response.status_code in (200, 400, 404), (path, body, response.text)
            if response.status_code != 200:
                assert response.json()["error"]["message"], (path, body)

    await asyncio.gather(*(send(num_bodies // 10) for _ in range(10)))
    for path, base in BASES.items():
        assert (await gateway.client.post(path, json=base)).status_code == 200


async def test_a_thousand_made_up_bodies_leave_the_server_healthy(echoing_gateway: Any) -> None:
    await fuzzed(echoing_gateway, 1_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_hundred_thousand_made_up_bodies_leave_the_server_healthy(
    echoing_gateway: Any,
) -> None:
    await fuzzed(echoing_gateway, 100_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echoing_gateway(
    model: ModelFiles, gateway_of: Callable[..., Any], answers: Callable[..., Any]
) -> AsyncIterator[Any]:
    async with gateway_of(model, lambda request: answers(request.prompt_tokens[:3])) as running:
        yield running
