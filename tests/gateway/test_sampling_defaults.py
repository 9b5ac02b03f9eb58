"""The operator's defaults: which object is taken, and what a request without fields gets of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.model_directory import ModelFiles
from gateway.sampling_defaults import NEUTRAL, SamplingDefaults, own_defaults

OF_MODEL = SamplingDefaults(temperature=0.6, top_k=20)


def test_the_operators_word_goes_before_the_models_and_null_is_none_of_it() -> None:
    assert own_defaults(OF_MODEL, "") is OF_MODEL
    assert own_defaults(OF_MODEL, "{}") == OF_MODEL
    own = own_defaults(OF_MODEL, '{"temperature": null, "max_tokens": 9, "top_p": 0.5}')
    assert own == SamplingDefaults(NEUTRAL.temperature, top_k=20, top_p=0.5, max_tokens=9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ("request_defaults", "not valid JSON")),
        ("[]", ("request_defaults", "object")),
        ('{"temprature": 1}', ("request_defaults", "temprature")),
        ('{"temperature": 3}', ("temperature", "at most 2", "is 3")),
        ('{"max_tokens": 0}', ("max_tokens", "at least 1")),
        ('{"top_k": "x"}', ("top_k", "str")),
    ],
)
def test_a_wrong_default_is_named(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as caught:
        own_defaults(OF_MODEL, text)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_default_limit_is_cut_to_the_context_and_an_asked_one_is_refused(
    start_gateway: Callable[..., Any],
    answer_of: Callable[..., Any],
    model: ModelFiles,
    stream: bool,
) -> None:
    own = own_defaults(model.defaults, json.dumps({"max_tokens": 100}))
    with_defaults = replace(model, defaults=own)
    async with start_gateway(lambda _: answer_of([300]), model=with_defaults) as gateway:
        for length, limit in ((10, 100), (200, 56)):
            body = {"model": "tiny", "prompt": [5] * length, "stream": stream}
            response = await gateway.client.post("/v1/completions", json=body)
            assert response.status_code == 200, response.text
            assert gateway.router.requests[-1].sampling.max_tokens == limit
        response = await gateway.client.post("/v1/completions", json={**body, "max_tokens": 100})
        assert response.status_code == 400
