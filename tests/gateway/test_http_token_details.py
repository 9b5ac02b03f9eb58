"""What an answer shows of its tokens, several choices and echoes, streamed and not."""

from collections.abc import Callable
from typing import Any

import pytest

from router.output import OutputDelta, RequestTrace
from wire.messages import FinishReason, GenerateRequest, TokenLogprobs

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
Start = Callable[..., Any]
Encode = Callable[[str], list[int]]
EventsOf = Callable[[str], list[Any]]


def with_logprobs(tokens: list[int], num_top: int) -> list[OutputDelta]:
    """One delta a token; the likeliest tokens are the token itself and those behind it."""
    steps = []
    for index, token in enumerate(tokens):
        top = tuple((token + i, -0.5 - i) for i in range(num_top))
        end = FinishReason.LENGTH if index == len(tokens) - 1 else None
        steps.append(OutputDelta((token,), end, logprobs=(TokenLogprobs(-0.5, top),)))
    return steps


async def choices_of(
    gateway: Any, events_of: EventsOf, path: str, stream: bool, **fields: Any
) -> list[dict[str, Any]]:
    base = {"messages": HELLO} if path == CHAT else {"prompt": "the relay"}
    response = await gateway.client.post(
        path, json={"model": "tiny", "stream": stream, **base, **fields}
    )
    assert response.status_code == 200, response.text
    answers = events_of(response.text) if stream else [response.json()]
    return [choice for answer in answers for choice in answer["choices"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_has_a_log_probability_for_each_token(
    start_gateway: Start, events_of: EventsOf, encode: Encode, stream: bool
) -> None:
    tokens = encode("a 🚀 pair")
    async with start_gateway(lambda _: with_logprobs(tokens, 2)) as gateway:
        choices = await choices_of(gateway, events_of, CHAT, stream, logprobs=True, top_logprobs=2)
        assert gateway.router.requests[0].sampling.top_logprobs == 2
    entries = [entry for c in choices if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert len(entries) == len(tokens)
    assert bytes(b for entry in entries for b in entry["bytes"]).decode() == "a 🚀 pair"
    assert [entry["logprob"] for entry in entries] == [-0.5] * len(tokens)
    assert all(entry["top_logprobs"][0]["token"] == entry["token"] for entry in entries)
    assert [top["logprob"] for top in entries[0]["top_logprobs"]] == [-0.5, -1.5]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_completion_has_its_log_probabilities_in_parallel_lists(
    start_gateway: Start, events_of: EventsOf, encode: Encode, stream: bool
) -> None:
    tokens = encode("router picks")
    async with start_gateway(lambda _: with_logprobs(tokens, 1)) as gateway:
        choices = await choices_of(gateway, events_of, TEXT, stream, logprobs=1)
    shown: dict[str, list[Any]] = {}
    for choice in choices:
        for name, values in (choice["logprobs"] or {}).items():
            shown.setdefault(name, []).extend(values)
    assert "".join(shown["tokens"]) == "router picks"
    assert shown["token_logprobs"] == [-0.5] * len(tokens)
    assert shown["top_logprobs"] == [{token: -0.5} for token in shown["tokens"]]
    lengths = [len(token) for token in shown["tokens"]]
    assert shown["text_offset"] == [sum(lengths[:i]) for i in range(len(lengths))]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_the_wish_shows_no_tokens(
    start_gateway: Start, events_of: EventsOf, encode: Encode, path: str, stream: bool
) -> None:
    async with start_gateway(lambda _: with_logprobs(encode("x y"), 1)) as gateway:
        choices = await choices_of(gateway, events_of, path, stream, return_token_ids=False)
        assert gateway.router.requests[0].sampling.top_logprobs is None
    assert all(choice["logprobs"] is None and "token_ids" not in choice for choice in choices)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
async def test_token_ids_come_with_the_answer_where_they_are_asked_for(
    start_gateway: Start,
    encode: Encode,
    answer_of: Callable[..., list[OutputDelta]],
    events_of: EventsOf,
    path: str,
    stream: bool,
) -> None:
    tokens = encode("tokens stream to the client")
    async with start_gateway(lambda _: answer_of(tokens)) as gateway:
        base = {"messages": HELLO} if path == CHAT else {"prompt": "the relay"}
        body = {"model": "tiny", "stream": stream, "return_token_ids": True, **base}
        response = await gateway.client.post(path, json=body)
        prompt = list(gateway.router.requests[0].prompt_tokens)
    answers = events_of(response.text) if stream else [response.json()]
    found: list[int] = []
    prompts = []
    for answer in answers:
        for choice in answer["choices"]:
            found += choice.get("token_ids", [])
            holder = answer if path == CHAT else choice
            if "prompt_token_ids" in holder:
                prompts.append(holder["prompt_token_ids"])
    assert found == tokens
    assert prompts == [prompt]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
async def test_n_choices_are_n_requests_with_seeds_of_their_own_and_one_prompt(
    start_gateway: Start,
    encode: Encode,
    answer_of: Callable[..., list[OutputDelta]],
    events_of: EventsOf,
    path: str,
    stream: bool,
) -> None:
    texts = {5: "first", 6: "second 東京", 7: "third"}

    def script(request: GenerateRequest) -> list[OutputDelta]:
        return answer_of(encode(texts[request.sampling.seed]), num_cached_tokens=1)

    async with start_gateway(script) as gateway:
        base = {"messages": HELLO} if path == CHAT else {"prompt": "the relay"}
        body = {"model": "tiny", "stream": stream, "n": 3, "seed": 5, **base}
        if stream:
            body["stream_options"] = {"include_usage": True}
        response = await gateway.client.post(path, json=body)
        requests = gateway.router.requests
    assert len({request.request_id for request in requests}) == 3
    assert len({request.block_hashes for request in requests}) == 1
    answers = events_of(response.text) if stream else [response.json()]
    found = dict.fromkeys(range(3), "")
    for choice in (choice for answer in answers for choice in answer["choices"]):
        part = choice.get("delta") or choice.get("message") or choice
        found[choice["index"]] += part.get("content") or part.get("text") or ""
    assert list(found.values()) == list(texts.values())
    usage = answers[-1]["usage"]
    assert usage["prompt_tokens"] == len(requests[0].prompt_tokens)
    assert usage["completion_tokens"] == sum(len(encode(text)) for text in texts.values())
    assert usage["prompt_tokens_details"]["cached_tokens"] == 1


@pytest.mark.parametrize("prompt", ["the relay", ["one", "two"], [300, 301]])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_echo_puts_the_prompt_before_the_answer(
    start_gateway: Start,
    model: Any,
    encode: Encode,
    answer_of: Callable[..., list[OutputDelta]],
    events_of: EventsOf,
    prompt: Any,
    stream: bool,
) -> None:
    async with start_gateway(lambda _: answer_of(encode(" runs"))) as gateway:
        choices = await choices_of(gateway, events_of, TEXT, stream, prompt=prompt, echo=True)
        prompts = [list(request.prompt_tokens) for request in gateway.router.requests]
    found = ["" for _ in prompts]
    for choice in choices:
        found[choice["index"]] += choice["text"]
    assert found == [model.tokenizer.decode(tokens) + " runs" for tokens in prompts]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bias_goes_to_the_workers_by_token(
    start_gateway: Start,
    answer_of: Callable[..., list[OutputDelta]],
    events_of: EventsOf,
    path: str,
    stream: bool,
) -> None:
    async with start_gateway(lambda _: answer_of([300])) as gateway:
        bias = {"300": -100, "7": 2.5, "8": 0}
        await choices_of(gateway, events_of, path, stream, logit_bias=bias)
        [request] = gateway.router.requests
    assert request.sampling.logit_bias == ((300, -100.0), (7, 2.5))


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_the_usage_of_a_stream_comes_with_stages_and_workers(
    start_gateway: Start, events_of: EventsOf, path: str
) -> None:
    trace = RequestTrace(
        "remote", "p7", "d9", 2, 0.001, 0.002, 0.0304, transfer_s=0.005, exposed_s=0.0006
    )
    last = OutputDelta((300,), FinishReason.LENGTH, trace=trace)
    async with start_gateway(lambda _: [last]) as gateway:
        base = {"messages": HELLO} if path == CHAT else {"prompt": "the relay"}
        body = {"model": "tiny", "stream": True, **base}
        asked = {**body, "stream_options": {"include_usage": True}}
        *others, usage = events_of((await gateway.client.post(path, json=asked)).text)
        silent = events_of((await gateway.client.post(path, json=body)).text)
    assert usage["baton"] == {
        "kind": "remote",
        "prefill_worker": "p7",
        "decode_worker": "d9",
        "attempts": 2,
        "placed_ms": 1.0,
        "queue_ms": 2.0,
        "prefill_ms": 30.4,
        "transfer_ms": 5.0,
        "exposed_ms": 0.6,
    }
    assert all("baton" not in event for event in (*others, *silent))


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_a_stream_that_a_stop_string_ended_has_usage_without_stages(
    start_gateway: Start,
    encode: Encode,
    answer_of: Callable[..., list[OutputDelta]],
    events_of: EventsOf,
    path: str,
) -> None:
    async with start_gateway(lambda _: answer_of(encode("one two three"))) as gateway:
        base = {"messages": HELLO} if path == CHAT else {"prompt": "the relay"}
        body = {"model": "tiny", "stream": True, "stop": "two", **base}
        body["stream_options"] = {"include_usage": True}
        *_, usage = events_of((await gateway.client.post(path, json=body)).text)
    assert usage["usage"]["completion_tokens"] > 0
    assert "baton" not in usage


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_usage_so_far_comes_with_every_event_where_it_is_asked_for(
    start_gateway: Start,
    encode: Encode,
    answer_of: Callable[..., list[OutputDelta]],
    events_of: EventsOf,
    path: str,
) -> None:
    tokens = encode("one two three four")
    async with start_gateway(lambda _: answer_of(tokens)) as gateway:
        base = {"messages": HELLO} if path == CHAT else {"prompt": "the relay"}
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = {"model": "tiny", "stream": True, "stream_options": options, **base}
        events = events_of((await gateway.client.post(path, json=body)).text)
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == len(tokens)
    assert counts[0] > 0
