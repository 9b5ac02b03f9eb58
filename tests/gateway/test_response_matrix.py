"""Every answer in the official clients' types: no field missing, none that they do not know."""

import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

import anthropic.types as claude
import openai.types as openai_types
import openai.types.responses as items
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, TypeAdapter

from gateway.model_directory import ModelFiles
from router.output import OutputDelta
from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason, TokenLogprobs

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
SAID = {
    "text": "It is sunny.",
    "call": f"I look.\n{CALL}\n{CALL}",
    "thought": f"<think>Where?</think>There.\n{CALL}",
}
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls %}<tool_call>{{ call.function.name }}{% endfor %}\n"
    "{% endfor %}{# </think> #}"
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "the weather"}
USAGE = {"include_usage": True, "continuous_usage_stats": True}
CHAT_TOOLS = [{"type": "function", "function": {**TOOL, "parameters": SCHEMA}}]
RESPONSE_TOOLS = [{"type": "function", **TOOL, "parameters": SCHEMA}]
CLAUDE_TOOLS = [{**TOOL, "input_schema": SCHEMA}]

# What docs/http.md names as Baton's own, what the answers of reasoning models have elsewhere, what
# OpenAI's own responses have beside the client's type of them, and what its earlier types had.
OWN = {"reasoning_content", "baton", "token_ids", "prompt_token_ids", "store", "name"}

# The fields that an answer always has, as clients that do not use the types rely on them.
ALWAYS = {
    CHAT: {"id", "object", "created", "model", "choices"},
    TEXT: {"id", "object", "created", "model", "choices"},
    RESPONSES: {"id", "object", "created_at", "status", "model", "output", "usage", "error"},
    MESSAGES: {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"},
}
WHOLE: dict[str, type[BaseModel]] = {
    CHAT: ChatCompletion,
    TEXT: openai_types.Completion,
    RESPONSES: items.Response,
    MESSAGES: claude.Message,
}
EVENT: dict[str, Any] = {
    CHAT: ChatCompletionChunk,
    TEXT: openai_types.Completion,
    RESPONSES: items.ResponseStreamEvent,
    MESSAGES: claude.RawMessageStreamEvent,
}
EVENTS: dict[str, type[BaseModel]] = {
    literal: event
    for union in (items.ResponseStreamEvent, claude.RawMessageStreamEvent)
    for event in get_args(get_args(union)[0])
    for literal in get_args(event.model_fields["type"].annotation)
}
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    TEXT: {"prompt": "the relay"},
    RESPONSES: {"input": "Hello"},
    MESSAGES: {"messages": HELLO, "max_tokens": 99},
}
# endpoint, what the model says, the body's other fields
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    (CHAT, "text", {}),
    (CHAT, "text", {"n": 2, "logprobs": True, "top_logprobs": 2}),
    (CHAT, "text", {"return_token_ids": True}),
    (CHAT, "text", {"max_completion_tokens": 3, "response_format": {"type": "json_object"}}),
    (CHAT, "call", {"tools": CHAT_TOOLS}),
    (CHAT, "call", {"tools": CHAT_TOOLS, "tool_choice": "required", "logprobs": True}),
    (CHAT, "thought", {"tools": CHAT_TOOLS}),
    (TEXT, "text", {}),
    (TEXT, "text", {"n": 2, "logprobs": 2}),
    (TEXT, "text", {"echo": True, "return_token_ids": True}),
    (TEXT, "text", {"stop": "sunny"}),
    (RESPONSES, "text", {"instructions": "Be brief.", "metadata": {"a": "b"}, "user": "u"}),
    (RESPONSES, "text", {"max_output_tokens": 3}),
    (RESPONSES, "text", {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}),
    (RESPONSES, "call", {"tools": RESPONSE_TOOLS, "parallel_tool_calls": False}),
    (RESPONSES, "thought", {"tools": RESPONSE_TOOLS, "reasoning": {"effort": "low"}}),
    (MESSAGES, "text", {"system": "Be brief."}),
    (MESSAGES, "text", {"stop_sequences": ["sunny"]}),
    (MESSAGES, "call", {"tools": CLAUDE_TOOLS, "tool_choice": {"type": "any"}}),
    (MESSAGES, "thought", {"tools": CLAUDE_TOOLS}),
]


def unknown_fields(value: Any, path: str = "") -> Iterator[str]:
    """What an answer has beyond the client's types."""
    if isinstance(value, BaseModel):
        yield from (f"{path}.{name}" for name in value.model_extra or () if name not in OWN)
        for name in type(value).model_fields:
            yield from unknown_fields(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for each in value:
            yield from unknown_fields(each, f"{path}[]")


def check(kind: Any, value: Any) -> None:
    """Raises for a field that is missing or of another type, and for one that is not known."""
    if not isinstance(kind, type):
        kind = EVENTS[value["type"]]
    parsed = TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    assert list(unknown_fields(parsed)) == [], value


@pytest.fixture(scope="module")
def tool_model(model_of: Callable[[str], ModelFiles]) -> ModelFiles:
    return model_of(TEMPLATE)


def deltas_of(tokens: list[int], request: Any) -> list[OutputDelta]:
    """One delta a token, with log-probabilities where they are asked for; cut off at max_tokens."""
    num_top, most = request.sampling.top_logprobs, request.sampling.max_tokens
    reason = FinishReason.STOP if len(tokens) < most else FinishReason.LENGTH
    steps = []
    for at, token in enumerate(tokens[:most], 1):
        top = tuple((token + i, -0.5 - i) for i in range(num_top or 0))
        logprobs = () if num_top is None else (TokenLogprobs(-0.5, top),)
        end = reason if at == min(most, len(tokens)) else None
        steps.append(OutputDelta((token,), end, 1, logprobs=logprobs))
    return steps


@pytest.fixture
def script(encode: Callable[[str], list[int]]) -> Callable[[str], Callable[[Any], Any]]:
    return lambda said: lambda request: deltas_of(encode(SAID[said]), request)


@pytest.mark.parametrize(("path", "said", "fields"), ROWS)
async def test_a_whole_answer_has_the_clients_fields_and_no_others(
    start_gateway: Callable[..., Any],
    tool_model: ModelFiles,
    script: Callable[[str], Any],
    path: str,
    said: str,
    fields: dict[str, Any],
) -> None:
    async with start_gateway(script(said), model=tool_model) as gateway:
        body = {"model": "tiny", **BASE[path], **fields}
        response = await gateway.client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    check(WHOLE[path], answer)
    assert ALWAYS[path] | ({"usage"} if path in (CHAT, TEXT) else set()) <= set(answer)


def payloads(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize(
    ("path", "said", "fields", "options"),
    [(*row, {}) for row in ROWS] + [(*row, USAGE) for row in ROWS if row[0] in (CHAT, TEXT)],
)
async def test_each_event_of_a_stream_has_the_clients_fields_and_no_others(
    start_gateway: Callable[..., Any],
    tool_model: ModelFiles,
    script: Callable[[str], Any],
    path: str,
    said: str,
    fields: dict[str, Any],
    options: dict[str, bool],
) -> None:
    body = {"model": "tiny", "stream": True, **BASE[path], **fields}
    if path in (CHAT, TEXT):
        body["stream_options"] = options
    async with start_gateway(script(said), model=tool_model) as gateway:
        response = await gateway.client.post(path, json=body)
    assert response.status_code == 200, response.text
    events = payloads(response.text)
    assert events
    for event in events:
        if path == TEXT:
            _end_early_choices(event)
        check(EVENT[path], event)
        if path in (CHAT, TEXT):
            assert ALWAYS[path] <= set(event)
            assert ("usage" in event) is bool(options)
    assert len({event["id"] for event in events if "id" in event}) <= 1


def _end_early_choices(event: dict[str, Any]) -> None:
    """The type of a completion does not know its streams, where null stands until the end."""
    for choice in event["choices"]:
        assert "finish_reason" in choice
        choice["finish_reason"] = choice["finish_reason"] or "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_a_failure_is_told_in_the_clients_types(
    start_gateway: Callable[..., Any], model: ModelFiles, path: str, stream: bool
) -> None:
    steps = [OutputDelta((300,)), BatonError(ErrorCode.WORKER_LOST, "gone")]
    async with start_gateway(lambda _: steps) as gateway:
        body = {"model": "tiny", "stream": stream, **BASE[path]}
        response = await gateway.client.post(path, json=body)
    if path == MESSAGES:
        last = payloads(response.text)[-1] if stream else response.json()
        told = {name: last["error"].pop(name) for name in ("code",)}
        TypeAdapter(claude.ErrorResponse).validate_python({"request_id": None, **last})
        assert told == {"code": "worker_lost"}
    elif stream:
        for event in payloads(response.text):
            check(EVENT[path], event)
    else:
        check(openai_types.ErrorObject, response.json()["error"])


@pytest.mark.parametrize("path", list(BASE))
async def test_a_refusal_is_told_in_the_clients_types(
    start_gateway: Callable[..., Any], path: str
) -> None:
    async with start_gateway(lambda _: []) as gateway:
        body = {"model": "tiny", **BASE[path], "temperature": -1}
        response = await gateway.client.post(path, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "temperature"
    if path == MESSAGES:
        assert response.json()["type"] == "error" and error["type"] == "invalid_request_error"
    else:
        check(openai_types.ErrorObject, error)


async def test_models_and_counts_have_the_clients_fields(
    start_gateway: Callable[..., Any],
) -> None:
    async with start_gateway(lambda _: []) as gateway:
        listed = (await gateway.client.get("/v1/models")).json()
        one = (await gateway.client.get("/v1/models/tiny")).json()
        body = {"model": "tiny", "messages": HELLO}
        count = (await gateway.client.post(f"{MESSAGES}/count_tokens", json=body)).json()
    assert set(listed) == {"object", "data"} and listed["object"] == "list"
    for card in (one, *listed["data"]):
        assert card.pop("max_model_len") == 256  # beside OpenAI's fields, as others serve it
        check(openai_types.Model, card)
    check(claude.MessageTokensCount, count)
