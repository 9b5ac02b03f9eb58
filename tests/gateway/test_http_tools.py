"""Tools and reasoning over HTTP: the prompt, the demands on the answer, the answer's shape."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

from gateway.model_directory import ModelFiles
from router.output import OutputDelta
from wire.messages import FinishReason, GrammarKind

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now", "description": "the time"}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls %}<tool_call>{{ call.function.arguments.city }}{% endfor %}\n"
    "{% endfor %}{% if thinking %}<think>\n{% endif %}{# </think> #}"
)
Start = Callable[..., Any]
EventsOf = Callable[[str], list[Any]]


@pytest.fixture(scope="module")
def tool_model(model_of: Callable[[str], ModelFiles]) -> ModelFiles:
    return model_of(TEMPLATE)


@pytest.fixture
async def ask(
    start_gateway: Start,
    tool_model: ModelFiles,
    answer_of: Callable[..., list[OutputDelta]],
    encode: Callable[[str], list[int]],
    events_of: EventsOf,
) -> AsyncIterator[Callable[..., Any]]:
    """ask(answer, stream, **fields) -> (message, finish reason, the router's request)."""

    async def run(text: str, stream: bool = False, **fields: Any) -> tuple[Any, str, Any]:
        script = lambda _: answer_of(encode(text), reason=FinishReason.STOP)  # noqa: E731
        async with start_gateway(script, model=tool_model) as gateway:
            body = {"model": "tiny", "messages": HELLO, "stream": stream, **fields}
            response = await gateway.client.post(CHAT, json=body)
            assert response.status_code == 200, response.text
            [request] = gateway.router.requests
        if not stream:
            [choice] = response.json()["choices"]
            return choice["message"], choice["finish_reason"], request
        return *folded(events_of(response.text)), request

    yield run


def folded(events: list[Any]) -> tuple[dict[str, Any], str]:
    """A stream's message; each delta has one kind of news."""
    message: dict[str, Any] = {"content": ""}
    reason = ""
    for choice in (choice for event in events for choice in event["choices"]):
        delta = choice["delta"]
        message["content"] += delta.get("content") or ""
        if delta.get("reasoning_content"):
            message.setdefault("reasoning_content", "")
            message["reasoning_content"] += delta["reasoning_content"]
        for call in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                calls.append({"id": call["id"], "type": call["type"], "function": call["function"]})
            else:
                function = calls[call["index"]]["function"]
                function["arguments"] += call["function"]["arguments"]
        reason = choice["finish_reason"] or reason
    if "tool_calls" in message:
        message["content"] = message["content"] or None
    return message, reason


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_taken_out_of_the_text(ask: Any, stream: bool) -> None:
    message, reason, request = await ask(f"I look.\n{CALL}", stream, tools=TOOLS)
    assert message["content"] == "I look."
    [call] = message["tool_calls"]
    assert call["type"] == "function" and call["id"].startswith("call")
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Köln"}'}
    assert reason == "tool_calls"
    assert request.sampling.grammar is None


@pytest.mark.parametrize("stream", [False, True])
async def test_two_calls_come_by_index_and_one_only_without_parallel_calls(
    ask: Any, stream: bool
) -> None:
    text = f'{CALL}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'
    message, _, _ = await ask(text, stream, tools=TOOLS)
    assert message["content"] is None
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather", "now"]
    message, reason, _ = await ask(text, stream, tools=TOOLS, parallel_tool_calls=False)
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather"]
    assert reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
async def test_text_without_a_call_is_content(ask: Any, stream: bool) -> None:
    message, reason, _ = await ask("It is sunny.", stream, tools=TOOLS, tool_choice="auto")
    assert message["content"] == "It is sunny."
    assert "tool_calls" not in message
    assert reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": TOOLS, "tool_choice": "none"}])
async def test_without_tools_nothing_is_a_call(
    ask: Any, tool_model: ModelFiles, stream: bool, fields: dict[str, Any]
) -> None:
    message, reason, request = await ask(CALL, stream, **fields)
    assert message["content"] == CALL
    assert reason == "stop"
    assert "weather" not in tool_model.tokenizer.decode(list(request.prompt_tokens))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["weather", "now"]),
        ({"type": "function", "function": {"name": "weather"}}, ["weather"]),
    ],
)
async def test_a_demanded_call_is_a_grammar_of_the_tools(
    ask: Any, stream: bool, choice: Any, names: list[str]
) -> None:
    message, _, request = await ask(CALL, stream, tools=TOOLS, tool_choice=choice)
    assert message["tool_calls"][0]["function"]["name"] == "weather"
    grammar = request.sampling.grammar
    assert grammar.kind is GrammarKind.LARK
    assert [name for name in ("weather", "now") if f'\\"{name}\\"' in grammar.text] == names
    assert ("call)*" in grammar.text) == (choice == "required")


async def test_a_demanded_call_excludes_another_form(
    start_gateway: Start, tool_model: ModelFiles
) -> None:
    async with start_gateway(lambda _: [], model=tool_model) as gateway:
        body = {
            "model": "tiny",
            "messages": HELLO,
            "tools": TOOLS,
            "tool_choice": "required",
            "response_format": {"type": "json_object"},
        }
        response = await gateway.client.post(CHAT, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tool_choice"


async def test_the_prompt_shows_tools_and_earlier_calls_with_their_arguments_as_objects(
    ask: Any, tool_model: ModelFiles
) -> None:
    call = {"id": "x", "type": "function", "index": 0}
    call["function"] = {"name": "weather", "arguments": '{"city": "Rome"}'}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "sunny"},
    ]
    _, _, request = await ask("ok", messages=messages, tools=TOOLS)
    prompt = tool_model.tokenizer.decode(list(request.prompt_tokens))
    shown = [json.loads(line) for line in prompt.splitlines()[:2]]
    assert shown == TOOLS
    assert "<tool_call>Rome" in prompt
    assert "tool: sunny" in prompt


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_opened_by_the_prompt", [False, True])
async def test_reasoning_is_a_field_of_its_own(
    ask: Any, stream: bool, is_opened_by_the_prompt: bool
) -> None:
    text = "" if is_opened_by_the_prompt else "<think>"
    message, reason, _ = await ask(
        f"{text}Two and two.</think>\n\nFour.",
        stream,
        chat_template_kwargs={"thinking": is_opened_by_the_prompt},
    )
    assert message["reasoning_content"] == "Two and two."
    assert message["content"] == "Four."
    assert reason == "stop"


async def test_the_official_client_reads_a_streamed_call(
    start_gateway: Start,
    tool_model: ModelFiles,
    answer_of: Callable[..., list[OutputDelta]],
    encode: Callable[[str], list[int]],
) -> None:
    script = lambda _: answer_of(encode(CALL), reason=FinishReason.STOP)  # noqa: E731
    async with start_gateway(script, model=tool_model) as gateway:
        client = openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key="x", max_retries=0, http_client=gateway.client
        )
        async with client.chat.completions.stream(
            model="tiny", messages=HELLO, tools=TOOLS
        ) as stream:
            final = await stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Köln"},
    )
