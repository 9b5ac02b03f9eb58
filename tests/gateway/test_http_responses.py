"""/v1/responses: what it asks of the model, its response object, and the events of its stream."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
from answer_readers import named_events

from gateway.model_directory import ModelFiles
from router.output import OutputDelta
from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason, GrammarKind

PATH = "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "name": "weather", "parameters": SCHEMA}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content }}|{{ m.content }}"
    "{% for call in m.tool_calls %}<tool_call>{{ call.function.arguments.city }}{% endfor %}"
    "{{ '\n' }}{% endfor %}{% if enable_thinking %}<think>\n{% endif %}{# </think> #}"
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
    """ask(answer, stream, reason, **fields) -> (response object, the router's request)."""

    async def run(
        said: str, stream: bool, reason: FinishReason = FinishReason.STOP, **fields: Any
    ) -> tuple[Any, Any]:
        script = lambda _: answer_of(encode(said), reason=reason, num_cached_tokens=3)  # noqa: E731
        async with start_gateway(script, model=tool_model) as gateway:
            body = {"model": "tiny", "input": "Hello", "stream": stream, **fields}
            response = await gateway.client.post(PATH, json=body)
            assert response.status_code == 200, response.text
            [request] = gateway.router.requests
        if not stream:
            return response.json(), request
        events = named_events(response.text)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert folded(events) == events[-1]["response"]["output"]
        return events[-1]["response"], request

    yield run


def folded(events: list[Any]) -> list[Any]:
    """The items as the deltas alone tell them; what each done event repeats has to agree."""
    items: list[Any] = []
    texts: list[str] = []
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(items) and event["item"]["status"] == "in_progress"
            items.append(event["item"])
            texts.append("")
        elif kind.endswith(".delta"):
            assert event["item_id"] == items[-1]["id"]
            texts[-1] += event["delta"]
        elif kind.endswith(("_text.done", "arguments.done")):
            assert texts[-1] == event.get("text", event.get("arguments"))
        elif kind == "response.output_item.done":
            done = event["item"]
            held = done["arguments"] if "arguments" in done else done["content"][0]["text"]
            assert held == texts[-1]
            items[-1] = done
    return items


@pytest.mark.parametrize("stream", [False, True])
async def test_a_text_is_one_message_with_usage(ask: Any, stream: bool) -> None:
    response, request = await ask("It is sunny.", stream, instructions="Be brief.", metadata={})
    [item] = response["output"]
    assert item["type"] == "message" and item["role"] == "assistant"
    assert item["content"] == [
        {"type": "output_text", "text": "It is sunny.", "annotations": [], "logprobs": []}
    ]
    assert response["object"] == "response" and response["status"] == "completed"
    assert response["store"] is False and response["instructions"] == "Be brief."
    usage = response["usage"]
    assert usage["input_tokens"] == len(request.prompt_tokens)
    assert usage["input_tokens_details"]["cached_tokens"] == 3
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_text_and_calls_are_items_in_their_order(ask: Any, stream: bool) -> None:
    text = f"<think>Where?</think>I look.\n{CALL}\n{CALL}"
    response, request = await ask(text, stream, tools=TOOLS)
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    thought, said, call, other = response["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Where?"}]
    assert said["content"][0]["text"].strip() == "I look."
    assert call["name"] == "weather" and json.loads(call["arguments"]) == {"city": "Köln"}
    assert call["call_id"] != other["call_id"] and call["id"] != call["call_id"]
    assert request.sampling.grammar is None


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_max_output_tokens_cut_off_is_incomplete(
    ask: Any, stream: bool
) -> None:
    response, request = await ask("One two", stream, FinishReason.LENGTH, max_output_tokens=7)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert request.sampling.max_tokens == 7


async def test_a_conversation_goes_to_the_model_as_one_chat(
    ask: Any, tool_model: ModelFiles
) -> None:
    conversation = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"city": "Oslo"}',
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
    ]
    _, request = await ask("ok", False, input=conversation, instructions="Be kind.", tools=TOOLS)
    prompt = tool_model.tokenizer.decode(list(request.prompt_tokens))
    assert prompt.split("\n")[-5:-1] == [
        "system: |Be kind.",
        "user: |Weather?",
        "assistant: Hm|I look.<tool_call>Oslo",
        "tool: |rain",
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
async def test_a_demanded_call_is_a_grammar(ask: Any, stream: bool, choice: Any) -> None:
    response, request = await ask(CALL, stream, tools=TOOLS, tool_choice=choice)
    assert request.sampling.grammar.kind is GrammarKind.LARK
    assert response["output"][0]["type"] == "function_call"
    assert response["tool_choice"] == choice


@pytest.mark.parametrize("stream", [False, True])
async def test_a_text_format_is_a_grammar(ask: Any, stream: bool) -> None:
    form = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
    response, request = await ask('{"city": "Bonn"}', stream, text={"format": form})
    assert request.sampling.grammar.kind is GrammarKind.JSON_SCHEMA
    assert json.loads(request.sampling.grammar.text) == SCHEMA
    assert response["text"]["format"]["schema"] == SCHEMA


@pytest.mark.parametrize(("effort", "opened"), [("none", False), ("high", True), (None, False)])
async def test_the_effort_of_reasoning_is_the_chat_templates(
    ask: Any, tool_model: ModelFiles, effort: str | None, opened: bool
) -> None:
    _, request = await ask("ok", False, reasoning={"effort": effort})
    prompt = tool_model.tokenizer.decode(list(request.prompt_tokens))
    assert prompt.endswith("<think>\n") is opened


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"store": True}, "store", "unsupported_field"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_field"),
        ({"background": True}, "background", "unsupported_field"),
        ({"truncation": "auto"}, "truncation", "unsupported_field"),
        ({"include": ["web_search_call.results"]}, "include", "unsupported_field"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_field"),
        ({"input": []}, "input", None),
        ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role", None),
        ({"input": [{"role": "user", "content": None}]}, "input[0].content", None),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content",
            None,
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", None),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0]", None),
        ({"max_output_tokens": 0}, "max_output_tokens", None),
        ({"max_output_tokens": 100_000}, "input", "context_length_exceeded"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format", None),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", None),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"n": 2}, "n", "unknown_field"),
        ({"max_tokens": 2}, "max_tokens", "unknown_field"),
    ],
)
async def test_what_is_not_served_is_a_400_that_names_the_field(
    start_gateway: Start, fields: dict[str, Any], param: str, code: str | None
) -> None:
    async with start_gateway(lambda _: []) as gateway:
        body = {"model": "tiny", "input": "Hello", **fields}
        response = await gateway.client.post(PATH, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


async def test_a_stream_that_fails_ends_with_the_error_and_the_failed_response(
    start_gateway: Start, encode: Callable[[str], list[int]]
) -> None:
    lost = BatonError(ErrorCode.WORKER_LOST, "a worker was lost")
    script = lambda _: [OutputDelta(tuple(encode("Half"))), lost]  # noqa: E731
    async with start_gateway(script) as gateway:
        body = {"model": "tiny", "input": "Hello", "stream": True}
        response = await gateway.client.post(PATH, json=body)
    events = named_events(response.text)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["message"] == "a worker was lost"
    assert events[-2]["code"] == "worker_lost"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_the_official_client_streams_a_response(
    start_gateway: Start,
    tool_model: ModelFiles,
    answer_of: Callable[..., list[OutputDelta]],
    encode: Callable[[str], list[int]],
) -> None:
    script = lambda _: answer_of(encode(f"I look.\n{CALL}"), reason=FinishReason.STOP)  # noqa: E731
    async with (
        start_gateway(script, model=tool_model) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="k") as client,
    ):
        tools: Any = TOOLS
        async with client.responses.stream(model="tiny", input="Hello", tools=tools) as stream:
            text = "".join(
                [e.delta async for e in stream if e.type == "response.output_text.delta"]
            )
            final = await stream.get_final_response()
    assert text.strip() == final.output_text.strip() == "I look."
    call = final.output[-1]
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Köln"}
