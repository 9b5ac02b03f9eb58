"""Whatever the body, the server answers with an error in OpenAI's shape and never with a 500."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model_directory import ModelFiles

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


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=150)
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


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=100)
@given(
    body=st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode(errors="replace"))
)
async def test_no_bytes_give_a_500(echoing_gateway: Any, body: bytes) -> None:
    response = await echoing_gateway.client.post(CHAT, content=body)
    assert response.status_code == 400


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echoing_gateway(
    model: ModelFiles, gateway_of: Callable[..., Any], answers: Callable[..., Any]
) -> AsyncIterator[Any]:
    async with gateway_of(model, lambda request: answers(request.prompt_tokens[:3])) as running:
        yield running
