"""Answers over real HTTP: whole and streamed, chat and completions, with the official client."""

import asyncio
import gc
import json
import socket
from collections.abc import Callable
from typing import Any

import openai
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.model_directory import ModelFiles
from router.output import OutputDelta
from wire.block_hash import block_hashes
from wire.errors import BatonError, ErrorCode
from wire.messages import FinishReason, GenerateRequest

Start = Callable[..., Any]
Encode = Callable[[str], list[int]]
AnswerOf = Callable[..., list[OutputDelta]]
HELLO = [{"role": "user", "content": "Hello"}]


def events_of(body: str) -> list[Any]:
    """The payloads of a server-sent event stream, which has to end with [DONE]."""
    blocks = body.split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def client_of(gateway: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, http_client=gateway.client
    )


async def test_a_chat_answer_has_text_usage_and_the_workers_names(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    tokens = encode("A router picks a pair.")
    async with start_gateway(
        lambda _: answer_of(tokens, reason=FinishReason.STOP, num_cached_tokens=3)
    ) as gateway:
        raw = await client_of(gateway).chat.completions.with_raw_response.create(
            model="tiny", messages=HELLO, max_tokens=50
        )
        answer = raw.parse()
        [choice] = answer.choices
        assert choice.message.content == "A router picks a pair."
        assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
        assert answer.usage.completion_tokens == len(tokens)
        assert answer.usage.prompt_tokens == len(gateway.router.requests[0].prompt_tokens)
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + len(tokens)
        assert answer.usage.prompt_tokens_details.cached_tokens == 3
        assert raw.headers["x-request-id"] == answer.id == gateway.router.requests[0].request_id
        assert raw.headers["x-baton-prefill-worker"] == "prefill-0"
        assert raw.headers["x-baton-decode-worker"] == "decode-0"


async def test_a_streamed_chat_is_role_text_finish_usage_done(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    text = "Grüße aus Köln 🚀"
    async with start_gateway(lambda _: answer_of(encode(text))) as gateway:
        response = await gateway.client.post(
            "/v1/chat/completions",
            json={
                "model": "tiny",
                "messages": HELLO,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        )
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        first, *middle, finish, usage = events_of(response.text)
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(event["choices"][0]["delta"]["content"] for event in middle) == text
        assert finish["choices"][0]["delta"] == {}
        assert finish["choices"][0]["finish_reason"] == "length"
        assert all(event["usage"] is None for event in (first, *middle, finish))
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == len(encode(text))


async def test_the_official_client_reads_a_streamed_chat(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    async with start_gateway(lambda _: answer_of(encode("tokens stream"))) as gateway:
        stream = await client_of(gateway).chat.completions.create(
            model="tiny", messages=HELLO, stream=True
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "tokens stream"
        assert chunks[-1].choices[0].finish_reason == "length"
        assert all(chunk.usage is None for chunk in chunks)


async def test_the_official_client_reads_completions_whole_and_streamed(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    async with start_gateway(lambda _: answer_of(encode(" of the cache"))) as gateway:
        client = client_of(gateway)
        whole = await client.completions.create(model="tiny", prompt="the relay", max_tokens=9)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == (
            " of the cache",
            "length",
        )
        stream = await client.completions.create(
            model="tiny", prompt="x", stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        pieces = [choice.text for chunk in chunks for choice in chunk.choices]
        assert "".join(pieces) == " of the cache"
        assert chunks[-1].usage.total_tokens == 1 + len(encode(" of the cache"))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_batch_of_prompts_gives_one_choice_each_by_index(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf, stream: bool
) -> None:
    texts = {"one": "first", "two": "second 東京", "three": "third"}

    def script(request: GenerateRequest) -> list[OutputDelta]:
        [text] = [texts[key] for key in texts if tuple(encode(key)) == request.prompt_tokens]
        return answer_of(encode(text), num_cached_tokens=1)

    async with start_gateway(script) as gateway:
        body = {"model": "tiny", "prompt": list(texts), "stream": stream}
        response = await gateway.client.post("/v1/completions", json=body)
        found = dict.fromkeys(range(3), "")
        for event in events_of(response.text) if stream else [response.json()]:
            for choice in event["choices"]:
                found[choice["index"]] += choice["text"]
        assert list(found.values()) == list(texts.values())
        assert len({request.request_id for request in gateway.router.requests}) == 3
        if not stream:
            assert response.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


@pytest.mark.parametrize("prompt", [[5, 6, 7], [[5, 6, 7]]])
async def test_a_prompt_of_token_ids_goes_to_the_router_as_it_is(
    start_gateway: Start, answer_of: AnswerOf, prompt: list[Any]
) -> None:
    async with start_gateway(lambda _: answer_of([9])) as gateway:
        body = {"model": "tiny", "prompt": prompt}
        assert (await gateway.client.post("/v1/completions", json=body)).status_code == 200
        assert gateway.router.requests[0].prompt_tokens == (5, 6, 7)


async def test_the_chat_template_text_parts_and_block_hashes_reach_the_router(
    start_gateway: Start, answer_of: AnswerOf, model: ModelFiles
) -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    async with start_gateway(lambda _: answer_of([9])) as gateway:
        body = {"model": "tiny", "messages": messages, "cache_salt": "tenant", "priority": 2}
        await gateway.client.post("/v1/chat/completions", json=body)
        [request] = gateway.router.requests
        assert model.tokenizer.decode(request.prompt_tokens, skip_special_tokens=False) == (
            "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        assert request.block_hashes == tuple(block_hashes(request.prompt_tokens, "tenant"))
        assert (request.cache_salt, request.priority) == ("tenant", 2)


async def test_a_long_prompt_is_tokenized_like_a_short_one(
    start_gateway: Start, answer_of: AnswerOf, encode: Encode
) -> None:
    text = "of the pool and the pair " * 6 + " " * 3000
    async with start_gateway(lambda _: answer_of([9])) as gateway:
        body = {"model": "tiny", "prompt": text.strip()}
        await gateway.client.post("/v1/completions", json=body)
        assert gateway.router.requests[0].prompt_tokens == tuple(encode(text.strip()))


async def test_omitted_sampling_comes_from_the_model_and_a_random_seed(
    start_gateway: Start, answer_of: AnswerOf
) -> None:
    async with start_gateway(lambda _: answer_of([9])) as gateway:
        for _ in range(2):
            await gateway.client.post("/v1/completions", json={"model": "tiny", "prompt": "a"})
        first, second = (request.sampling for request in gateway.router.requests)
        assert (first.temperature, first.top_k, first.top_p) == (0.6, 20, 1.0)
        assert first.max_tokens == 255, "the rest of the context"
        assert first.seed != second.seed


async def test_given_sampling_reaches_the_router(start_gateway: Start, answer_of: AnswerOf) -> None:
    given = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "presence_penalty": -1,
        "frequency_penalty": 2,
        "min_tokens": 2,
        "ignore_eos": True,
        "stop_token_ids": [3, 4],
    }
    async with start_gateway(lambda _: answer_of([9])) as gateway:
        body = {"model": "tiny", "messages": HELLO, **given, "seed": -1, "n": 1}
        body |= {"max_completion_tokens": 7, "max_tokens": 9, "logprobs": False, "tools": None}
        body |= {"user": "u", "metadata": {"a": "b"}, "response_format": {"type": "text"}}
        response = await gateway.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        sampling = gateway.router.requests[0].sampling
        expected = {**given, "top_k": 0, "max_tokens": 7, "seed": 2**64 - 1}
        expected["stop_token_ids"] = (3, 4)
        assert {name: getattr(sampling, name) for name in expected} == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_answer_and_cancels_the_request(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf, stream: bool
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


async def test_stop_strings_do_not_count_before_min_tokens(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    tokens = encode("aaa")
    async with start_gateway(lambda _: answer_of(tokens * 2)) as gateway:
        body = {"model": "tiny", "prompt": "x", "stop": "a", "min_tokens": len(tokens)}
        [choice] = (await gateway.client.post("/v1/completions", json=body)).json()["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("aaa", "stop")


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


async def test_tokens_that_wait_go_out_in_one_event(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    tokens = encode("a long answer whose tokens all wait for the client")
    async with start_gateway(lambda _: answer_of(tokens)) as gateway:
        body = {"model": "tiny", "prompt": "x", "stream": True}
        response = await gateway.client.post("/v1/completions", json=body)
        events = events_of(response.text)
        assert len(events) < len(tokens) / 2
        assert gateway.value("baton_output_tokens_total") == len(tokens)


async def test_each_token_goes_out_at_once_when_it_does_not_wait(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    tokens = encode("tokens stream to")
    gates = [asyncio.Event() for _ in tokens]

    def script(_: GenerateRequest) -> list[Any]:
        return [step for pair in zip(gates, answer_of(tokens), strict=True) for step in pair]

    async with start_gateway(script) as gateway:
        body = {"model": "tiny", "prompt": "x", "stream": True}
        gates[0].set()
        async with gateway.client.stream("POST", "/v1/completions", json=body) as response:
            received = 0
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    received += 1
                    if received < len(gates):
                        gates[received].set()
        assert received == len(tokens)


async def test_answers_leave_without_nagles_delay(
    start_gateway: Start, answer_of: AnswerOf
) -> None:
    gate = asyncio.Event()
    async with start_gateway(lambda _: [gate, *answer_of([9])]) as gateway:
        body = {"model": "tiny", "prompt": "x"}
        request = asyncio.create_task(gateway.client.post("/v1/completions", json=body))
        await gateway.router.until(lambda: len(gateway.router.running) == 1)
        sockets = [
            protocol.transport.get_extra_info("socket")
            for protocol in gc.get_objects()
            if isinstance(protocol, HttpToolsProtocol) and not protocol.transport.is_closing()
        ]
        found = [
            each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for each in sockets
            if each.getsockname()[1] == gateway.port
        ]
        gate.set()
        await request
        assert found and all(found)


async def test_an_error_before_the_first_token_has_its_own_status(start_gateway: Start) -> None:
    async with start_gateway(
        lambda _: [BatonError(ErrorCode.OVERLOADED, "no room", retry_after_s=2.5)]
    ) as gateway:
        for stream in (False, True):
            body = {"model": "tiny", "messages": HELLO, "stream": stream}
            response = await gateway.client.post("/v1/chat/completions", json=body)
            assert response.status_code == 429
            assert response.headers["retry-after"] == "3"
            assert response.json() == {
                "error": {
                    "message": "no room",
                    "type": "rate_limit_error",
                    "param": None,
                    "code": "overloaded",
                }
            }


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.INVALID_REQUEST, 400),
        (ErrorCode.CONTEXT_LENGTH_EXCEEDED, 400),
        (ErrorCode.UNAVAILABLE, 503),
        (ErrorCode.DRAINING, 503),
        (ErrorCode.WORKER_LOST, 503),
        (ErrorCode.INTERNAL, 500),
    ],
)
async def test_every_router_error_has_a_status(
    start_gateway: Start, code: ErrorCode, status: int
) -> None:
    async with start_gateway(lambda _: [BatonError(code, "no")]) as gateway:
        body = {"model": "tiny", "prompt": "x"}
        response = await gateway.client.post("/v1/completions", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code.value)
        assert ("retry-after" in response.headers) == (status == 503)


async def test_an_error_in_the_middle_of_a_stream_is_an_event_before_done(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    gate = asyncio.Event()

    def script(_: GenerateRequest) -> list[Any]:
        return [answer_of(encode("half of"))[0], gate, BatonError(ErrorCode.WORKER_LOST, "gone")]

    async with start_gateway(script) as gateway:
        body = {"model": "tiny", "prompt": "x", "stream": True}
        async with gateway.client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            received = ""
            async for text in response.aiter_text():
                received += text
                gate.set()
        *_, error = events_of(received)
        assert error["error"]["code"] == "worker_lost"
        assert (
            gateway.value("baton_requests_total", endpoint="completions", outcome="worker_lost")
            == 1
        )


@pytest.mark.parametrize("steps", [[RuntimeError("a bug")], []])
async def test_a_router_that_breaks_its_contract_gives_a_500_not_a_hang(
    start_gateway: Start, steps: list[Any]
) -> None:
    async with start_gateway(lambda _: steps) as gateway:
        body = {"model": "tiny", "prompt": "x"}
        response = await gateway.client.post("/v1/completions", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")


async def test_metrics_count_tokens_and_outcomes(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    tokens = encode("tokens")
    async with start_gateway(lambda _: answer_of(tokens, num_cached_tokens=1)) as gateway:
        body = {"model": "tiny", "prompt": [5, 6, 7]}
        await gateway.client.post("/v1/completions", json=body)
        await gateway.client.post("/v1/completions", json={"model": "none", "prompt": "x"})
        await gateway.until_idle()
        page = (await gateway.client.get("/metrics")).text
        for line in (
            'baton_requests_total{endpoint="completions",outcome="ok"} 1.0',
            'baton_requests_total{endpoint="completions",outcome="model_not_found"} 1.0',
            "baton_requests_in_flight 0.0",
            "baton_prompt_tokens_total 3.0",
            "baton_cached_tokens_total 1.0",
            f"baton_output_tokens_total {float(len(tokens))}",
            "baton_ttft_seconds_count 1.0",
            "baton_e2e_seconds_count 1.0",
        ):
            assert line in page


async def test_the_small_pages_answer(start_gateway: Start) -> None:
    async with start_gateway(lambda _: []) as gateway:
        models = await client_of(gateway).models.list()
        assert [model.id for model in models.data] == ["tiny"]
        assert (await client_of(gateway).models.retrieve("tiny")).owned_by == "baton"
        with pytest.raises(openai.NotFoundError):
            await client_of(gateway).models.retrieve("a/b")
        assert (await gateway.client.get("/livez")).status_code == 200
        assert (await gateway.client.get("/readyz")).status_code == 200
        assert (await gateway.client.get("/version")).json()["version"]
        gateway.router.is_ready = False
        assert (await gateway.client.get("/readyz")).status_code == 503
        assert (await gateway.client.get("/livez")).status_code == 200
