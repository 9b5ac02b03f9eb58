"""Calls, forms and log-probabilities through the real processes, on the bundled model."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
