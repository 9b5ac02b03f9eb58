"""How the tests of several endpoints read a gateway's answers."""

import json
from typing import Any

import openai


def openai_client(gateway: Any) -> openai.AsyncOpenAI:
    """The official client over the gateway's own connections, without retries."""
    return openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, http_client=gateway.client
    )


def named_events(body: str) -> list[Any]:
    """The events of a stream; each one's name is the type of its data."""
    blocks = body.split("\n\n")
    assert blocks.pop() == ""
    events = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events
