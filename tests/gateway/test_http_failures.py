"""Failures below the gateway, the small pages and the metrics, over real HTTP."""

import asyncio
import io
from collections.abc import Callable
from typing import Any

import openai
import pytest
from answer_readers import openai_client

from router.output import OutputDelta
from runtime import log
from wire.errors import BatonError, ErrorCode
from wire.messages import GenerateRequest

Start = Callable[..., Any]
Encode = Callable[[str], list[int]]
AnswerOf = Callable[..., list[OutputDelta]]
EventsOf = Callable[[str], list[Any]]
HELLO = [{"role": "user", "content": "Hello"}]


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
    start_gateway: Start, events_of: EventsOf, encode: Encode, answer_of: AnswerOf
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


async def test_a_failure_is_answered_where_the_log_cannot_be_written(start_gateway: Start) -> None:
    out = io.StringIO()
    log.configure("gateway", stream=out)
    out.close()
    async with start_gateway(lambda _: [RuntimeError("a bug")]) as gateway:
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
        models = await openai_client(gateway).models.list()
        assert [model.id for model in models.data] == ["tiny"]
        assert (await openai_client(gateway).models.retrieve("tiny")).owned_by == "baton"
        with pytest.raises(openai.NotFoundError):
            await openai_client(gateway).models.retrieve("a/b")
        assert (await gateway.client.get("/livez")).status_code == 200
        assert (await gateway.client.get("/readyz")).status_code == 200
        assert (await gateway.client.get("/version")).json()["version"]
        gateway.router.is_ready = False
        assert (await gateway.client.get("/readyz")).status_code == 503
        assert (await gateway.client.get("/livez")).status_code == 200
