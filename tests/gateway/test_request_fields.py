"""Each field of a request: what it does, and that omitted, null, 0 and [] are four things."""

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
HELLO = [{"role": "user", "content": "Hello"}]
BODIES = {
    CHAT: {"model": "tiny", "messages": HELLO},
    TEXT: {"model": "tiny", "prompt": "Hello"},
}
MISSING = object()
Start = Callable[..., Any]
AnswerOf = Callable[..., list[OutputDelta]]
EventsOf = Callable[[str], list[Any]]
CASES: list[tuple[str, str, Any, Any]] = [
    # field, the router's value: of nothing given, of null, of 0 or [], or the refused field
    ("min_tokens", "sampling.min_tokens", {None: 0, 0: 0, 3: 3}, 0),
    ("max_tokens", "sampling.max_tokens", {None: "rest", 0: 400, 7: 7}, "rest"),
    ("temperature", "sampling.temperature", {None: 0.6, 0: 0.0, 1.5: 1.5}, 0.6),
    ("top_k", "sampling.top_k", {None: 20, 0: 0, -1: 0, 5: 5}, 20),
    ("top_p", "sampling.top_p", {None: 1.0, 0: 400, 0.5: 0.5}, 1.0),
    ("min_p", "sampling.min_p", {None: 0.0, 0: 0.0, 0.5: 0.5}, 0.0),
    ("presence_penalty", "sampling.presence_penalty", {None: 0.0, 0: 0.0, -1: -1.0}, 0.0),
    ("frequency_penalty", "sampling.frequency_penalty", {None: 0.0, 0: 0.0, 2: 2.0}, 0.0),
    ("repetition_penalty", "sampling.repetition_penalty", {None: 1.0, 0: 400, 1.1: 1.1}, 1.0),
    ("seed", "sampling.seed", {None: "random", 0: 0, 5: 5, -1: 2**64 - 1}, "random"),
    ("ignore_eos", "sampling.ignore_eos", {None: False, False: False, True: True}, False),
    ("priority", "priority", {None: 0, 0: 0, -4: -4, 9: 9}, 0),
    ("cache_salt", "cache_salt", {None: "", "": "", "s": "s"}, ""),
    ("n", "len", {None: 1, 0: 400, 2: 2}, 1),
]


def look(request: Any, path: str) -> Any:
    for name in path.split("."):
        request = getattr(request, name)
    return request


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_omitted_null_zero_and_a_value_are_told_apart(
    start_gateway: Start, answer_of: AnswerOf, path: str, stream: bool
) -> None:
    async with start_gateway(lambda _: answer_of([300, 301])) as gateway:
        for field, where, values, omitted in CASES:
            for value, expected in [(MISSING, omitted), *values.items()]:
                given = {} if value is MISSING else {field: value}
                gateway.router.requests.clear()
                body = {**BODIES[path], "stream": stream, **given}
                response = await gateway.client.post(path, json=body)
                case = (field, value)
                if expected == 400:
                    assert response.status_code == 400, case
                    assert response.json()["error"]["param"] == field
                    continue
                assert response.status_code == 200, (case, response.text)
                requests = gateway.router.requests
                found = len(requests) if where == "len" else look(requests[0], where)
                if expected == "rest":
                    expected = 256 - len(requests[0].prompt_tokens)
                if expected != "random":
                    assert found == expected, case


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("stop", {None: True, (): True, "": False, ("",): False, 0: False}),
        ("stop_token_ids", {None: True, (): True, (300,): True, 0: False}),
        ("logit_bias", {None: True, (): False, 0: False}),
        ("metadata", {None: True, (): False, "a": False}),
        ("user", {None: True, "": True, "u": True, 0: False}),
        ("stream_options", {None: True, 0: False, (): False}),
        ("response_format", {None: True, (): False, 0: False}),
    ],
)
async def test_empty_values_are_taken_or_refused_by_their_type(
    start_gateway: Start, answer_of: AnswerOf, path: str, field: str, values: dict[Any, bool]
) -> None:
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        for value, taken in values.items():
            given = list(value) if isinstance(value, tuple) else value
            response = await gateway.client.post(path, json={**BODIES[path], field: given})
            assert response.status_code == (200 if taken else 400), (field, given, response.text)


TAKEN, REFUSED = True, False
OF_ONE_ENDPOINT: list[tuple[str, str, list[tuple[Any, bool]]]] = [
    (CHAT, "max_completion_tokens", [(None, TAKEN), (0, REFUSED), ([], REFUSED)]),
    (CHAT, "logprobs", [(None, TAKEN), (False, TAKEN), (0, REFUSED), ([], REFUSED)]),
    (CHAT, "top_logprobs", [(None, TAKEN), (0, REFUSED), ([], REFUSED)]),
    (CHAT, "tools", [(None, TAKEN), ([], TAKEN), (0, REFUSED), ({}, REFUSED)]),
    (CHAT, "tool_choice", [(None, TAKEN), ("none", TAKEN), ("", REFUSED), (0, REFUSED)]),
    (CHAT, "parallel_tool_calls", [(None, TAKEN), (False, TAKEN), (0, REFUSED), ([], REFUSED)]),
    (CHAT, "chat_template_kwargs", [(None, TAKEN), ({}, TAKEN), (0, REFUSED), ([], REFUSED)]),
    (CHAT, "messages", [(None, REFUSED), (0, REFUSED), ([], REFUSED), ({}, REFUSED)]),
    (TEXT, "logprobs", [(None, TAKEN), (0, TAKEN), ([], REFUSED), (False, REFUSED)]),
    (TEXT, "echo", [(None, TAKEN), (False, TAKEN), (0, REFUSED), ([], REFUSED)]),
    (TEXT, "best_of", [(None, TAKEN), (1, TAKEN), (0, REFUSED), ([], REFUSED)]),
    (TEXT, "suffix", [(None, TAKEN), ("", TAKEN), (0, REFUSED), ([], REFUSED)]),
    (TEXT, "prompt", [(None, REFUSED), (0, REFUSED), ([], REFUSED), ("", REFUSED)]),
    (TEXT, "guided_choice", [(None, TAKEN), ([], REFUSED), (0, REFUSED), ("", REFUSED)]),
    (TEXT, "guided_regex", [(None, TAKEN), (0, REFUSED), ([], REFUSED)]),
    (
        TEXT,
        "guided_json",
        [(None, TAKEN), ({}, TAKEN), (True, TAKEN), (False, REFUSED), (0, REFUSED)],
    ),
    (TEXT, "structured_outputs", [(None, TAKEN), ({}, TAKEN), (0, REFUSED), ([], REFUSED)]),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_null_zero_and_empty_values_of_the_other_fields_are_told_apart(
    start_gateway: Start, answer_of: AnswerOf, stream: bool
) -> None:
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        for path, field, values in OF_ONE_ENDPOINT:
            for value, is_taken in values:
                body = {**BODIES[path], "stream": stream, field: value}
                response = await gateway.client.post(path, json=body)
                case = (field, value, response.text)
                assert response.status_code == (200 if is_taken else 400), case
                if not is_taken:
                    assert str(response.json()["error"]["param"]).startswith(field), case


async def test_log_probabilities_of_a_completion_are_none_or_of_no_other_token_for_null_and_zero(
    start_gateway: Start, answer_of: AnswerOf
) -> None:
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        for given, expected in (({}, None), ({"logprobs": None}, None), ({"logprobs": 0}, 0)):
            await gateway.client.post(TEXT, json={**BODIES[TEXT], **given})
            assert gateway.router.requests[-1].sampling.top_logprobs == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_max_completion_tokens_goes_before_max_tokens(
    start_gateway: Start, answer_of: AnswerOf, stream: bool
) -> None:
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        body = {**BODIES[CHAT], "stream": stream, "max_tokens": 9}
        for given, expected in ((5, 5), (None, 9)):
            await gateway.client.post(CHAT, json={**body, "max_completion_tokens": given})
            assert gateway.router.requests[-1].sampling.max_tokens == expected
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
