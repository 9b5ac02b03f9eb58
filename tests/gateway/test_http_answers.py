"""Answers over real HTTP: whole and streamed, chat and completions, with the official client."""

import asyncio
import gc
import socket
from collections.abc import Callable
from typing import Any

import pytest
from answer_readers import openai_client
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.model_directory import ModelFiles
from router.output import OutputDelta
from wire.block_hash import block_hashes
from wire.messages import FinishReason, GenerateRequest

Start = Callable[..., Any]
Encode = Callable[[str], list[int]]
AnswerOf = Callable[..., list[OutputDelta]]
EventsOf = Callable[[str], list[Any]]
HELLO = [{"role": "user", "content": "Hello"}]


async def test_a_chat_answer_has_text_usage_and_the_workers_names(
    start_gateway: Start, encode: Encode, answer_of: AnswerOf
) -> None:
    tokens = encode("A router picks a pair.")
    async with start_gateway(
        lambda _: answer_of(tokens, reason=FinishReason.STOP, num_cached_tokens=3)
    ) as gateway:
        raw = await openai_client(gateway).chat.completions.with_raw_response.create(
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
    start_gateway: Start, events_of: EventsOf, encode: Encode, answer_of: AnswerOf
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
        stream = await openai_client(gateway).chat.completions.create(
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
        client = openai_client(gateway)
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
    start_gateway: Start, events_of: EventsOf, encode: Encode, answer_of: AnswerOf, stream: bool
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


async def test_tokens_that_wait_go_out_in_one_event(
    start_gateway: Start, events_of: EventsOf, encode: Encode, answer_of: AnswerOf
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
            if issubclass(type(protocol), HttpToolsProtocol) and not protocol.transport.is_closing()
        ]
        found = [
            each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for each in sockets
            if each.getsockname()[1] == gateway.port
        ]
        gate.set()
        await request
        assert found and all(found)


async def test_many_streams_at_once_never_mix_their_texts(
    start_gateway: Start, events_of: EventsOf, encode: Encode, answer_of: AnswerOf
) -> None:
    """Each answer repeats its prompt; tokens are let go one step at a time, for all in turn."""
    gates = [asyncio.Event() for _ in range(4)]

    def script(request: GenerateRequest) -> list[Any]:
        parts = answer_of(request.prompt_tokens, per_delta=1 + len(request.prompt_tokens) % 3)
        steps: list[Any] = []
        for index, part in enumerate(parts):
            steps += [gates[min(index, 3)], part]
        return steps

    async def ask(gateway: Any, text: str) -> str:
        body = {"model": "tiny", "prompt": text, "stream": True}
        response = await gateway.client.post("/v1/completions", json=body)
        return "".join(event["choices"][0]["text"] for event in events_of(response.text))

    texts = [f"the {number} workers of 東京 {'relay ' * (number % 7)}" for number in range(48)]
    async with start_gateway(script) as gateway:
        asking = asyncio.gather(*(ask(gateway, text) for text in texts))
        await gateway.router.until(lambda: len(gateway.router.running) == len(texts))
        for gate in gates:
            gate.set()
            await gateway.client.get("/livez")
        assert await asking == texts
