"""The official clients come again when the answer says when, and not before."""

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from router.output import OutputDelta
from wire.errors import BatonError, ErrorCode
from wire.messages import GenerateRequest

HELLO: Any = [{"role": "user", "content": "Hello"}]
WAIT_S = 1.0


class BusyAtFirst:
    """Refuses the first requests, as a router without room does."""

    def __init__(self, answer: list[OutputDelta], code: ErrorCode, num_refused: int = 1) -> None:
        self._answer = answer
        self._code = code
        self._num_left = num_refused
        self.asked_s: list[float] = []

    def __call__(self, _: GenerateRequest) -> list[Any]:
        self.asked_s.append(asyncio.get_running_loop().time())
        self._num_left -= 1
        if self._num_left >= 0:
            return [BatonError(self._code, "no room", retry_after_s=WAIT_S)]
        return self._answer


async def chat(gateway: Any, stream: bool, max_retries: int) -> str:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="k", max_retries=max_retries
    ) as client:
        if not stream:
            whole = await client.chat.completions.create(model="tiny", messages=HELLO)
            return whole.choices[0].message.content or ""
        chunks = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


async def message(gateway: Any, stream: bool, max_retries: int) -> str:
    async with anthropic.AsyncAnthropic(
        base_url=gateway.url, api_key="k", max_retries=max_retries
    ) as client:
        asked: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 9}
        if stream:
            async with client.messages.stream(**asked) as events:
                return "".join([text async for text in events.text_stream])
        return str((await client.messages.create(**asked)).content[0].text)


@pytest.mark.parametrize(
    ("ask", "stream", "code"),
    [
        (chat, False, ErrorCode.OVERLOADED),
        (chat, True, ErrorCode.UNAVAILABLE),
        (message, False, ErrorCode.UNAVAILABLE),
        (message, True, ErrorCode.OVERLOADED),
    ],
)
async def test_a_client_waits_as_long_as_retry_after_says_and_gets_its_answer(
    start_gateway: Callable[..., Any],
    answer_of: Callable[..., list[OutputDelta]],
    encode: Callable[[str], list[int]],
    ask: Callable[..., Any],
    stream: bool,
    code: ErrorCode,
) -> None:
    """Both clients' own pause before a first retry is at most half a second."""
    script = BusyAtFirst(answer_of(encode("in a relay")), code)
    async with start_gateway(script) as gateway:
        assert await ask(gateway, stream, 2) == "in a relay"
    first_s, second_s = script.asked_s
    assert second_s - first_s >= WAIT_S


@pytest.mark.parametrize(
    ("ask", "kinds"),
    [
        (chat, (openai.RateLimitError, openai.InternalServerError)),
        (message, (anthropic.RateLimitError, anthropic.InternalServerError)),
    ],
)
async def test_a_client_that_does_not_retry_is_told_when_it_may(
    start_gateway: Callable[..., Any],
    answer_of: Callable[..., list[OutputDelta]],
    ask: Callable[..., Any],
    kinds: tuple[type[Any], type[Any]],
) -> None:
    for code, kind in zip((ErrorCode.OVERLOADED, ErrorCode.UNAVAILABLE), kinds, strict=True):
        async with start_gateway(BusyAtFirst(answer_of([300]), code)) as gateway:
            with pytest.raises(kind, match="no room") as caught:
                await ask(gateway, False, 0)
        assert caught.value.response.headers["retry-after"] == "1"


async def test_what_cannot_get_better_is_not_tried_again(
    start_gateway: Callable[..., Any], answer_of: Callable[..., list[OutputDelta]]
) -> None:
    script = BusyAtFirst(answer_of([300]), ErrorCode.INVALID_REQUEST)
    async with start_gateway(script) as gateway:
        with pytest.raises(openai.BadRequestError):
            await chat(gateway, False, 3)
    assert len(script.asked_s) == 1
