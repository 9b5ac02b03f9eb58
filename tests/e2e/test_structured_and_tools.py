"""Calls, forms and log-probabilities through the real processes, on the bundled model."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import baton
from wire.messages import Role

MODEL = Path(baton.__file__).parent / "demo_model"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colour": {"enum": ["red", "green"]},
    },
    "required": ["name", "age", "colour"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Any]) -> Iterator[Any]:
    started = start_cluster(MODEL)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(cluster: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_the_model_calls_a_tool_and_answers_from_its_result(client: openai.OpenAI) -> None:
    ask: Any = {"model": MODEL.name, "temperature": 0, "max_tokens": 100, "tools": [WEATHER]}
    answer = client.chat.completions.create(messages=QUESTION, **ask).choices[0]
    assert answer.finish_reason == "tool_calls"
    [call] = answer.message.tool_calls or []
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {
        "role": "tool",
        "tool_call_id": call.id,
        "content": '{"result": 21, "state": "sunny"}',
    }
    messages = [*QUESTION, answer.message.model_dump(exclude_none=True), result]
    final = client.chat.completions.create(messages=messages, **ask).choices[0]
    assert final.finish_reason == "stop"
    assert "sunny with 21 degrees" in (final.message.content or "")


@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_demanded_call_comes_whatever_is_asked(client: openai.OpenAI, choice: str) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    stream = client.chat.completions.create(
        model=MODEL.name,
        messages=[{"role": "user", "content": "Hello!"}],
        tools=[WEATHER],
        tool_choice=named if choice == "named" else "required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=120,
        stream=True,
    )
    name, arguments = "", ""
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or ():
            assert call.function is not None
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert name == "get_weather"
    assert set(json.loads(arguments)) == {"city"}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_follows_its_schema(client: openai.OpenAI, temperature: float) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = client.chat.completions.create(
        model=MODEL.name,
        messages=[{"role": "user", "content": "Tell me about yourself."}],
        response_format=form,
        temperature=temperature,
        seed=3,
        max_tokens=120,
    ).choices[0]
    assert answer.finish_reason == "stop"
    person = json.loads(answer.message.content or "")
    assert set(person) == {"name", "age", "colour"}
    assert person["colour"] in ("red", "green")


def test_a_completion_follows_its_regex(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL.name,
        prompt="Call me at",
        temperature=1.0,
        seed=1,
        max_tokens=40,
        extra_body={"guided_regex": "[0-9]{3}-[0-9]{4}"},
    ).choices[0]
    assert re.fullmatch("[0-9]{3}-[0-9]{4}", answer.text)


def test_every_token_has_its_log_probability_over_both_pools(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL.name,
        messages=[{"role": "user", "content": "What is Baton? Tell me all that you know of it."}],
        temperature=0,
        max_tokens=30,
        logprobs=True,
        top_logprobs=3,
    )
    assert answer.usage is not None
    choice = answer.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    for entry in choice.logprobs.content:
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob)
        assert entry.token == entry.top_logprobs[0].token
        assert len(entry.top_logprobs) == 3
    shown = "".join(entry.token for entry in choice.logprobs.content)
    assert shown.startswith(choice.message.content or "-")


def test_choices_of_one_prompt_differ_and_repeat_with_their_seed(client: openai.OpenAI) -> None:
    def sample() -> list[str]:
        answer = client.chat.completions.create(
            model=MODEL.name,
            messages=[{"role": "user", "content": "Tell me a short story."}],
            temperature=1.0,
            seed=5,
            n=3,
            max_tokens=30,
        )
        return [choice.message.content or "" for choice in answer.choices]

    first = sample()
    assert len(set(first)) > 1
    assert sample() == first


def test_a_form_survives_the_loss_of_the_decode_worker_in_mid_stream(
    client: openai.OpenAI, cluster: Any
) -> None:
    item = {"type": "integer", "minimum": 0, "maximum": 99}
    schema = {"type": "array", "items": item, "minItems": 120, "maxItems": 120}

    def answer(kill_after: int) -> str:
        stream = client.chat.completions.create(
            model=MODEL.name,
            messages=[{"role": "user", "content": "Give me numbers."}],
            temperature=1.0,
            seed=11,
            max_tokens=900,
            stream=True,
            extra_body={"guided_json": schema},
        )
        text = ""
        is_struck = False
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if kill_after and not is_struck and len(text) > kill_after:
                is_struck = True
                cluster.signal_workers(Role.DECODE, signal.SIGKILL)
        return text

    undisturbed = answer(0)
    assert len(json.loads(undisturbed)) == 120
    assert answer(20) == undisturbed


def test_a_tool_call_and_its_answer_as_responses(cluster: Any, client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"]}
    ask: Any = {"model": MODEL.name, "temperature": 0, "max_output_tokens": 100, "tools": [tool]}
    question: Any = "What is the weather in Paris?"
    with client.responses.stream(input=question, **ask) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    [call] = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": '{"result": 21, "state": "sunny"}',
    }
    items = [item.model_dump(exclude_none=True) for item in first.output]
    said: Any = [{"role": "user", "content": question}, *items, result]
    final = client.responses.create(input=said, **ask)
    assert final.status == "completed"
    assert "sunny with 21 degrees" in final.output_text
    assert final.usage is not None and final.usage.input_tokens_details.cached_tokens > 0


def test_a_tool_call_and_its_answer_as_messages(cluster: Any) -> None:
    function = WEATHER["function"]
    tool = {
        "name": function["name"],
        "description": function["description"],
        "input_schema": function["parameters"],
    }
    ask: Any = {
        "model": MODEL.name,
        "max_tokens": 100,
        "tools": [tool],
        "extra_body": {"temperature": 0},
    }
    question: Any = {"role": "user", "content": "What is the weather in Paris?"}
    with anthropic.Anthropic(base_url=cluster.url, api_key="none", max_retries=0) as client:
        with client.messages.stream(messages=[question], **ask) as stream:
            streamed = stream.get_final_message()
        first = client.messages.create(messages=[question], **ask)
        assert first.stop_reason == streamed.stop_reason == "tool_use"
        [call] = [block for block in first.content if block.type == "tool_use"]
        assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
        answer = {"role": "assistant", "content": [b.model_dump() for b in first.content]}
        output = '{"result": 21, "state": "sunny"}'
        result = {"type": "tool_result", "tool_use_id": call.id, "content": output}
        said: Any = [question, answer, {"role": "user", "content": [result]}]
        final = client.messages.create(messages=said, **ask)
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(messages=said, **{**ask, "model": "nothing"})
    assert final.stop_reason == "end_turn"
    assert "sunny with 21 degrees" in final.content[-1].text  # type: ignore[union-attr]
