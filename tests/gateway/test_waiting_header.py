"""What a request without a worker waited for goes with its answer, as a header."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from router.no_worker import NoWorker
from router.output import OutputDelta

WAITING = "3.1 s; decode 0/1, 1 starting"
Start = Callable[..., Any]
PATHS = ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"]


def body_of(path: str, stream: bool) -> dict[str, object]:
    said = [{"role": "user", "content": "Hello"}]
    asked: dict[str, dict[str, object]] = {
        "/v1/completions": {"prompt": "Hello"},
        "/v1/responses": {"input": "Hello"},
    }
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    found = asked.get(path, {"messages": said})
    return {"model": "tiny", "stream": stream, limit: 16, **found}


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_that_waited_says_for_what_whole_or_streamed(
    start_gateway: Start,
    encode: Callable[[str], list[int]],
    answer_of: Callable[..., list[OutputDelta]],
    path: str,
) -> None:
    def waited(_: object) -> list[OutputDelta]:
        first, *rest = answer_of(encode("Hi there"))
        return [replace(first, waiting=WAITING), *rest]

    async with start_gateway(waited) as gateway:
        for stream in (False, True):
            response = await gateway.client.post(path, json=body_of(path, stream))
            assert response.status_code == 200, response.text
            assert response.headers["x-baton-waiting"] == WAITING


async def test_an_answer_that_did_not_wait_has_no_such_header(
    start_gateway: Start,
    encode: Callable[[str], list[int]],
    answer_of: Callable[..., list[OutputDelta]],
) -> None:
    async with start_gateway(lambda _: answer_of(encode("Hi"))) as gateway:
        response = await gateway.client.post(PATHS[0], json=body_of(PATHS[0], True))
        assert "x-baton-waiting" not in response.headers


@pytest.mark.parametrize("path", PATHS)
async def test_who_waited_in_vain_gets_503_with_it_and_a_time_to_come_back(
    start_gateway: Start, path: str
) -> None:
    async with start_gateway(lambda _: [NoWorker(WAITING)]) as gateway:
        for stream in (False, True):
            response = await gateway.client.post(path, json=body_of(path, stream))
            assert response.status_code == 503
            assert response.headers["x-baton-waiting"] == WAITING
            assert response.headers["retry-after"] == "1"
            assert WAITING in response.text
