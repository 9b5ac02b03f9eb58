"""/v1/messages: Anthropic's shape of a request, of an answer, of a stream and of an error."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import pytest
from answer_readers import named_events

from gateway.model_directory import ModelFiles
from router.output import OutputDelta
from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason, GrammarKind

PATH = "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"name": "weather", "description": "the weather", "input_schema": SCHEMA}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content }}|{{ m.content }}"
    "{% for call in m.tool_calls %}<tool_call>{{ call.function.arguments.city }}{% endfor %}"
    "{{ '\n' }}{% endfor %}{% if enable_thinking %}<think>{{ '\n' }}{% endif %}{# </think> #}"
)
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def tool_model(model_of: Callable[[str], ModelFiles]) -> ModelFiles:
    return model_of(TEMPLATE)


@pytest.fixture
async def ask(
    start_gateway: Start,
    tool_model: ModelFiles,
    answer_of: Callable[..., list[OutputDelta]],
    encode: Callable[[str], list[int]],
) -> AsyncIterator[Callable[..., Any]]:
    """ask(answer, stream, reason, **fields) -> (message, the router's request)."""

    async def run(
        said: str, stream: bool, reason: FinishReason = FinishReason.STOP, **fields: Any
    ) -> tuple[Any, Any]:
        script = lambda _: answer_of(encode(said), reason=reason, num_cached_tokens=3)  # noqa: E731
        async with start_gateway(script, model=tool_model) as gateway:
            body = {
                "model": "tiny", "max_tokens": 99, "messages": HELLO, "stream": stream, **fields
            }  # fmt: skip
            response = await gateway.client.post(PATH, json=body)
            assert response.status_code == 200, response.text
            [request] = gateway.router.requests
        return folded(response.text) if stream else response.json(), request

    yield run


def folded(body: str) -> Any:
    """The message that a stream's events tell."""
    first, *middle, delta, last = named_events(body)
    assert (first["type"], delta["type"], last["type"]) == (
        "message_start", "message_delta", "message_stop",
    )  # fmt: skip
    message = first["message"]
    assert message["content"] == [] and message["stop_reason"] is None
    texts: list[str] = []
    for event in middle:
        if event["type"] == "content_block_start":
            assert event["index"] == len(texts)
            message["content"].append(event["content_block"])
            texts.append("")
            continue
        assert event["index"] == len(texts) - 1
        block = message["content"][-1]
        if event["type"] == "content_block_delta":
            field = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}
            texts[-1] += event["delta"][field[block["type"]]]
        elif block["type"] == "tool_use":
            block["input"] = json.loads(texts[-1])
        else:
            block[block["type"]] = texts[-1]
    return {**message, **delta["delta"], "usage": delta["usage"]}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_text_is_one_block_with_usage(ask: Any, stream: bool) -> None:
    message, request = await ask("It is sunny.", stream, system="Be brief.", top_k=5)
    assert message["type"] == "message" and message["role"] == "assistant"
    assert message["content"] == [{"type": "text", "text": "It is sunny.", "citations": None}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)
    usage = message["usage"]
    assert usage["cache_read_input_tokens"] == 3
    assert usage["input_tokens"] == len(request.prompt_tokens) - 3
    assert (request.sampling.max_tokens, request.sampling.top_k) == (99, 5)


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_text_and_calls_are_blocks_in_their_order(ask: Any, stream: bool) -> None:
    text = f"<think>Where?</think>I look.\n{CALL}\n{CALL}"
    message, _ = await ask(text, stream, tools=TOOLS)
    kinds = [block["type"] for block in message["content"]]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    thought, said, call, other = message["content"]
    assert thought["thinking"] == "Where?" and said["text"].strip() == "I look."
    assert (call["name"], call["input"]) == ("weather", {"city": "Köln"})
    assert call["id"] != other["id"]
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_stopped_an_answer_is_told(ask: Any, stream: bool) -> None:
    message, _ = await ask("one STOP two", stream, stop_sequences=["END", "STOP"])
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "STOP")
    assert message["content"][0]["text"] == "one "
    message, _ = await ask("one two", stream, FinishReason.LENGTH)
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
async def test_a_demanded_call_is_a_grammar(ask: Any, stream: bool, choice: Any) -> None:
    choice = {**choice, "disable_parallel_tool_use": True}
    message, request = await ask(CALL, stream, tools=TOOLS, tool_choice=choice)
    assert request.sampling.grammar.kind is GrammarKind.LARK
    assert [block["type"] for block in message["content"]] == ["tool_use"]


async def test_a_conversation_goes_to_the_model_as_one_chat(
    ask: Any, tool_model: ModelFiles
) -> None:
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": ""},
                {"type": "text", "text": "I look.", "citations": None},
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Well?", "cache_control": {"type": "ephemeral"}},
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "rain"}],
                },
            ],
        },
    ]
    system = [{"type": "text", "text": "Be kind."}]
    _, request = await ask("ok", False, messages=conversation, system=system)
    prompt = tool_model.tokenizer.decode(list(request.prompt_tokens))
    assert prompt.split("\n")[:-1] == [
        "system: |Be kind.",
        "user: |Weather?",
        "assistant: Hm|I look.<tool_call>Oslo",
        "tool: |rain",
        "user: |Well?",
    ]


@pytest.mark.parametrize(
    ("thinking", "opened"),
    [({"type": "enabled", "budget_tokens": 1024}, True), ({"type": "disabled"}, False)],
)
async def test_thinking_is_the_chat_templates(
    ask: Any, tool_model: ModelFiles, thinking: Any, opened: bool
) -> None:
    _, request = await ask("ok", False, thinking=thinking)
    prompt = tool_model.tokenizer.decode(list(request.prompt_tokens))
    assert prompt.endswith("<think>\n") is opened


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0]",
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"thinking": {"type": "much"}}, "thinking.type"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"n": 2}, "n"),
    ],
)
async def test_a_wrong_field_is_a_400_in_anthropics_shape(
    start_gateway: Start, fields: dict[str, Any], param: str
) -> None:
    async with start_gateway(lambda _: []) as gateway:
        body = {"model": "tiny", "max_tokens": 5, "messages": HELLO, **fields}
        response = await gateway.client.post(PATH, json=body)
    assert response.status_code == 400
    answer = response.json()
    assert answer["type"] == "error"
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param


async def test_max_tokens_has_to_be_given(start_gateway: Start) -> None:
    async with start_gateway(lambda _: []) as gateway:
        response = await gateway.client.post(PATH, json={"model": "tiny", "messages": HELLO})
    assert response.status_code == 400
    assert "max_tokens" in response.json()["error"]["message"]


async def test_a_stream_that_fails_ends_with_an_error_event(
    start_gateway: Start, encode: Callable[[str], list[int]]
) -> None:
    lost = BatonError(ErrorCode.WORKER_LOST, "a worker was lost")
    script = lambda _: [OutputDelta(tuple(encode("Half"))), lost]  # noqa: E731
    async with start_gateway(script) as gateway:
        body = {"model": "tiny", "max_tokens": 5, "messages": HELLO, "stream": True}
        response = await gateway.client.post(PATH, json=body)
    last = named_events(response.text)[-1]
    assert last["type"] == "error"
    assert last["error"]["type"] == "overloaded_error"


async def test_the_tokens_of_a_prompt_are_counted_as_they_are_sent(
    start_gateway: Start, tool_model: ModelFiles, answer_of: Any
) -> None:
    async with start_gateway(lambda _: answer_of([300]), model=tool_model) as gateway:
        body = {"model": "tiny", "messages": HELLO, "system": "Be kind.", "tools": TOOLS}
        counted = await gateway.client.post(f"{PATH}/count_tokens", json=body)
        await gateway.client.post(PATH, json={**body, "max_tokens": 1})
        [request] = gateway.router.requests
    assert counted.json() == {"input_tokens": len(request.prompt_tokens)}


async def test_the_official_client_streams_a_message_with_a_call(
    start_gateway: Start,
    tool_model: ModelFiles,
    answer_of: Callable[..., list[OutputDelta]],
    encode: Callable[[str], list[int]],
) -> None:
    said = f"I look.\n{CALL}"
    script = lambda _: answer_of(  # noqa: E731
        encode(said), reason=FinishReason.STOP, num_cached_tokens=2
    )
    tools: Any = TOOLS
    messages: Any = HELLO
    async with (
        start_gateway(script, model=tool_model) as gateway,
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="k") as client,
        client.messages.stream(
            model="tiny", max_tokens=99, messages=messages, tools=tools
        ) as stream,
    ):
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text.strip() == "I look."
    call = final.content[-1]
    assert call.type == "tool_use" and call.input == {"city": "Köln"}
    assert final.stop_reason == "tool_use"
    assert final.usage.cache_read_input_tokens == 2
