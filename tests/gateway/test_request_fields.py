"""Values of a request's fields and what they do; test_field_table.py has what is no value."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from gateway.model_directory import read_model_directory
from router.output import OutputDelta
from wire.messages import FinishReason

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]
BODIES = {
    CHAT: {"model": "tiny", "messages": HELLO},
    TEXT: {"model": "tiny", "prompt": "Hello"},
    RESPONSES: {"model": "tiny", "input": "Hello"},
    MESSAGES: {"model": "tiny", "messages": HELLO, "max_tokens": 9},
}
Start = Callable[..., Any]
AnswerOf = Callable[..., list[OutputDelta]]
EventsOf = Callable[[str], list[Any]]
CASES: list[tuple[str, str, dict[Any, Any]]] = [
    # field, where the router has it, its value there for each that a client may give
    ("min_tokens", "sampling.min_tokens", {3: 3}),
    ("max_tokens", "sampling.max_tokens", {7: 7}),
    ("temperature", "sampling.temperature", {0.3: 0.3, 1: 1.0}),
    ("top_k", "sampling.top_k", {-1: 0, 5: 5}),
    ("top_p", "sampling.top_p", {0.5: 0.5}),
    ("min_p", "sampling.min_p", {0.5: 0.5}),
    ("presence_penalty", "sampling.presence_penalty", {-1: -1.0}),
    ("frequency_penalty", "sampling.frequency_penalty", {2: 2.0}),
    ("repetition_penalty", "sampling.repetition_penalty", {1.1: 1.1}),
    ("seed", "sampling.seed", {5: 5, -1: 2**64 - 1}),
    ("ignore_eos", "sampling.ignore_eos", {True: True}),
    ("priority", "priority", {-4: -4, 9: 9}),
    ("cache_salt", "cache_salt", {"s": "s"}),
    ("stop_token_ids", "sampling.stop_token_ids", {(3, 4): (3, 4)}),
    ("n", "len", {2: 2}),
    ("max_completion_tokens", "sampling.max_tokens", {7: 7}),
    ("max_output_tokens", "sampling.max_tokens", {7: 7}),
]
OWN = {  # of the fields that not every endpoint has
    "max_tokens": (CHAT, TEXT, MESSAGES),
    "max_completion_tokens": (CHAT,),
    "max_output_tokens": (RESPONSES,),
    "n": (CHAT, TEXT),
}


def look(request: Any, path: str) -> Any:
    for name in path.split("."):
        request = getattr(request, name)
    return request


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", list(BODIES))
async def test_a_value_reaches_the_router(
    start_gateway: Start, answer_of: AnswerOf, path: str, stream: bool
) -> None:
    async with start_gateway(lambda _: answer_of([300, 301])) as gateway:
        for field, where, values in CASES:
            if path not in OWN.get(field, BODIES):
                continue
            for value, expected in values.items():
                gateway.router.requests.clear()
                body = {**BODIES[path], "stream": stream, field: value}
                response = await gateway.client.post(path, json=body)
                assert response.status_code == 200, (field, value, response.text)
                requests = gateway.router.requests
                found = len(requests) if where == "len" else look(requests[0], where)
                assert found == expected, (field, value)


@pytest.mark.parametrize("stream", [False, True])
async def test_max_completion_tokens_goes_before_max_tokens(
    start_gateway: Start, answer_of: AnswerOf, stream: bool
) -> None:
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        body = {**BODIES[CHAT], "stream": stream}
        rows = ((5, 9, 5), (None, 9, 9), (5, None, 5), (None, None, "the context"))
        for newer, older, expected in rows:
            given = {"max_completion_tokens": newer, "max_tokens": older}
            await gateway.client.post(CHAT, json={**body, **given})
            request = gateway.router.requests[-1]
            if expected == "the context":
                expected = 256 - len(request.prompt_tokens)
            assert request.sampling.max_tokens == expected, given
        response = await gateway.client.post(CHAT, json={**body, "max_completion_tokens": 0})
        assert response.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_token_ends_without_a_text_and_counts(
    start_gateway: Start, answer_of: AnswerOf, encode: Any, events_of: EventsOf, stream: bool
) -> None:
    tokens = [*encode("one"), 300]
    script = lambda _: answer_of(tokens, reason=FinishReason.STOP)  # noqa: E731
    async with start_gateway(script) as gateway:
        body = {**BODIES[TEXT], "stop_token_ids": [300], "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        response = await gateway.client.post(TEXT, json=body)
        assert gateway.router.requests[0].sampling.stop_token_ids == (300,)
    events = events_of(response.text) if stream else [response.json()]
    text = "".join(choice["text"] for event in events for choice in event["choices"])
    assert text == "one"
    assert events[-1]["usage"]["completion_tokens"] == len(tokens)


@pytest.mark.parametrize("stream", [False, True])
async def test_ignore_eos_lets_the_end_token_pass(
    start_gateway: Start, answer_of: AnswerOf, model: Any, encode: Any, stream: bool
) -> None:
    [eos] = model.eos_token_ids
    tokens = [*encode("one"), eos, *encode(" two")]
    async with start_gateway(lambda _: answer_of(tokens)) as gateway:
        body = {**BODIES[TEXT], "ignore_eos": True, "stream": stream}
        response = await gateway.client.post(TEXT, json=body)
        assert gateway.router.requests[0].sampling.ignore_eos
    assert " two" in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_what_only_labels_a_request_changes_nothing(
    start_gateway: Start, answer_of: AnswerOf, stream: bool
) -> None:
    labels = {"user": "u", "metadata": {"a": "b"}}
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        for path in (CHAT, TEXT):
            body = {**BODIES[path], "seed": 1, "stream": stream}
            for given in (body, {**body, **labels}):
                assert (await gateway.client.post(path, json=given)).status_code == 200
            plain, labelled = gateway.router.requests[-2:]
            assert plain.sampling == labelled.sampling
            assert plain.prompt_tokens == labelled.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
async def test_the_chat_templates_variables_reach_the_prompt(
    start_gateway: Start,
    answer_of: AnswerOf,
    tmp_path: Path,
    byte_level_tokenizer: Tokenizer,
    write_model: Callable[..., Path],
    stream: bool,
) -> None:
    template = "{{ mood | default('none') }}: {{ messages[0].content }}"
    path = write_model(tmp_path / "tiny", byte_level_tokenizer, chat_template=template)
    model = read_model_directory(path)
    async with start_gateway(lambda _: answer_of([300]), model=model) as gateway:
        for given, expected in (({"mood": "glad"}, "glad"), ({}, "none"), (None, "none")):
            body = {**BODIES[CHAT], "chat_template_kwargs": given, "stream": stream}
            await gateway.client.post(CHAT, json=body)
            tokens = list(gateway.router.requests[-1].prompt_tokens)
            assert model.tokenizer.decode(tokens).startswith(f"{expected}:")


UNKNOWN = [
    (CHAT, {**BODIES[CHAT], "zzz": 1}, "zzz"),
    (CHAT, {"model": "tiny", "messages": [{**HELLO[0], "zzz": 1}]}, "messages[0].zzz"),
    (TEXT, {**BODIES[TEXT], "zzz": {"a": [1]}}, "zzz"),
    (TEXT, {**BODIES[TEXT], "a.b`[0]": 1}, "a.b`[0]"),
    ("/v1/responses", {"model": "tiny", "input": "a", "text": {"zzz": 1}}, "text.zzz"),
    (
        "/v1/messages",
        {"model": "tiny", "max_tokens": 4, "messages": [{**HELLO[0], "zzz": 1}], "yyy": None},
        "messages[0].zzz",
    ),
]


@pytest.mark.parametrize(("path", "body", "named"), UNKNOWN)
async def test_an_unknown_field_is_named_or_ignored_by_a_switch(
    start_gateway: Start, answer_of: AnswerOf, path: str, body: Any, named: str
) -> None:
    script = lambda _: answer_of([300])  # noqa: E731
    async with start_gateway(script) as gateway:
        response = await gateway.client.post(path, json=body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("unknown_field", named)
    async with start_gateway(script, ignores_unknown=True) as gateway:
        assert (await gateway.client.post(path, json=body)).status_code == 200
        wrong = {**body, "temperature": "hot"}
        assert (await gateway.client.post(path, json=wrong)).status_code == 400
        many = {**body, **{f"z{index}": 1 for index in range(150)}}
        response = await gateway.client.post(path, content=json.dumps(many).encode())
        assert response.status_code == 400
        assert "over 100 unknown fields" in response.json()["error"]["message"]
