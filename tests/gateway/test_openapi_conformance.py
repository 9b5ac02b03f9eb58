"""Requests made from the OpenAPI document get answers that it describes, and never a 500."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
import uvloop
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.model_directory import ModelFiles

CHECKS = (
    schemathesis.checks.not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def url(
    model: ModelFiles, gateway_of: Callable[..., Any], answers: Callable[..., Any]
) -> Iterator[str]:
    """A gateway in a thread of its own: the client here is a blocking one."""
    ready: list[str] = []
    is_ready = threading.Event()
    stops: list[Callable[[], None]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with gateway_of(model, lambda request: answers(request.prompt_tokens[:3])) as gateway:
            ready.append(gateway.url)
            stops.append(lambda: loop.call_soon_threadsafe(stop.set))
            is_ready.set()
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert is_ready.wait(30)
    yield ready[0]
    stops[0]()
    thread.join(30)
    assert not thread.is_alive()


def conforms(url: str, num_cases: int) -> int:
    """Tries `num_cases` over all operations, and valid and invalid ones of each; gives how many
    were sent."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    posts = [operation for operation in operations if operation.body]
    num_each = max(1, num_cases // (len(posts) * len(MODES)))
    sent = 0

    for operation in operations:
        for mode in MODES if operation in posts else MODES[:1]:

            @settings(
                max_examples=num_each if operation in posts else 3,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.explicit, Phase.generate),
                database=None,
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def attempt(case: Any) -> None:
                nonlocal sent
                sent += 1
                case.validate_response(case.call(timeout=30), checks=CHECKS)

            attempt()
    return sent


def test_made_up_requests_get_answers_that_the_document_describes(url: str) -> None:
    assert conforms(url, 150) >= 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_thousand_made_up_requests_get_answers_that_the_document_describes(url: str) -> None:
    assert conforms(url, 5500) >= 5000
