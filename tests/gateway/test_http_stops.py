"""Stop strings and stop tokens over real HTTP."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from router.output import OutputDelta
from wire.messages import FinishReason, GenerateRequest

Start = Callable[..., Any]
Encode = Callable[[str], list[int]]
AnswerOf = Callable[..., list[OutputDelta]]
EventsOf = Callable[[str], list[Any]]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_answer_and_cancels_the_request(
    start_gateway: Start, events_of: EventsOf, encode: Encode, answer_of: AnswerOf, stream: bool
) -> None:
    forever = asyncio.Event()

    def script(_: GenerateRequest) -> list[Any]:
        return [*answer_of(encode("one two STOP three"))[:-1], forever]

    async with start_gateway(script) as gateway:
        body = {"model": "tiny", "messages": HELLO, "stop": ["STOP", "zz"], "stream": stream}
        response = await gateway.client.post("/v1/chat/completions", json=body)
        if stream:
            choices = [event["choices"][0] for event in events_of(response.text)]
            text = "".join(choice["delta"].get("content", "") for choice in choices)
            reason = choices[-1]["finish_reason"]
        else:
            text = response.json()["choices"][0]["message"]["content"]
            reason = response.json()["choices"][0]["finish_reason"]
        assert (text, reason) == ("one two ", "stop")
        [request] = gateway.router.requests
        await gateway.router.until(lambda: request.request_id in gateway.router.closed_early)
        await gateway.until_idle()


async def test_a_stop_string_in_one_of_several_prompts_leaves_the_others_alone(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    def script(request: GenerateRequest) -> list[OutputDelta]:
        text = "a STOP b" if request.prompt_tokens == (1,) else "all of it"
        return answer_of(encode(text))

    async with start_gateway(script) as gateway:
        body = {"model": "tiny", "prompt": [[1], [2]], "stop": "STOP"}
        choices = (await gateway.client.post("/v1/completions", json=body)).json()["choices"]
        assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
            ("a ", "stop"),
            ("all of it", "length"),
        ]


@pytest.mark.parametrize("stream", [False, True])
async def test_stop_strings_do_not_count_before_min_tokens(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf, events_of: EventsOf, stream: bool
) -> None:
    tokens = encode("aaa")
    async with start_gateway(lambda _: answer_of(tokens * 2)) as gateway:
        body = {"model": "tiny", "prompt": "x", "stop": "a", "min_tokens": len(tokens)}
        response = await gateway.client.post("/v1/completions", json={**body, "stream": stream})
        events = events_of(response.text) if stream else [response.json()]
        choices = [event["choices"][0] for event in events]
        assert "".join(choice["text"] for choice in choices) == "aaa"
        assert choices[-1]["finish_reason"] == "stop"


async def test_the_token_that_ends_an_answer_does_not_show_but_counts(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    tokens = encode("relay")
    stop_id = encode(".")[0]
    async with start_gateway(
        lambda _: answer_of([*tokens, stop_id], reason=FinishReason.STOP)
    ) as gateway:
        body = {"model": "tiny", "prompt": "x", "stop_token_ids": [stop_id]}
        answer = (await gateway.client.post("/v1/completions", json=body)).json()
        assert answer["choices"][0]["text"] == "relay"
        assert answer["usage"]["completion_tokens"] == len(tokens) + 1
