"""The pages around the answers: tokens, embeddings, and the description of the interface."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from gateway.model_directory import ModelFiles
from router.output import OutputDelta

pytestmark = pytest.mark.asyncio(loop_scope="module")
HELLO = [{"role": "user", "content": "Grüße 🚀"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    model: ModelFiles,
    gateway_of: Callable[..., Any],
    answers: Callable[..., list[OutputDelta]],
) -> AsyncIterator[Any]:
    async with gateway_of(model, lambda _: answers([300, 301])) as running:
        yield running


async def post(gateway: Any, path: str, body: Any) -> Any:
    return await gateway.client.post(path, json=body)


async def test_a_prompt_is_tokenized_and_comes_back(gateway: Any, model: ModelFiles) -> None:
    text = "A router picks. 東京 <|im_end|>"
    body = {"model": "tiny", "prompt": text, "return_token_strs": True}
    found = (await post(gateway, "/tokenize", body)).json()
    assert found["tokens"] == model.tokenizer.encode(text).ids
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["token_strs"][-1] == "<|im_end|>"
    assert found["max_model_len"] == 256
    back = (await post(gateway, "/detokenize", {"tokens": found["tokens"]})).json()
    assert back == {"prompt": text}


async def test_messages_are_tokenized_as_a_chat_sends_them(gateway: Any) -> None:
    found = (await post(gateway, "/tokenize", {"messages": HELLO})).json()
    chat = {"model": "tiny", "messages": HELLO, "return_token_ids": True}
    answer = (await post(gateway, "/v1/chat/completions", chat)).json()
    assert found["tokens"] == answer["prompt_token_ids"]
    assert found["count"] == answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, 400, "prompt"),
        ("/tokenize", {"prompt": 3}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/tokenize", {"prompt": "a", "zzz": 1}, 400, "zzz"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": [10**9]}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/v1/embeddings", {"model": "tiny", "input": "a"}, 400, "model"),
    ],
)
async def test_a_wrong_body_is_refused_in_openais_shape(
    gateway: Any, path: str, body: Any, status: int, param: str
) -> None:
    response = await post(gateway, path, body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param


async def test_the_openapi_document_describes_every_route_and_real_answers(gateway: Any) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    posts = {path for path, operations in document["paths"].items() if "post" in operations}
    assert posts == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
    }
    bodies: dict[str, Any] = {
        "/v1/chat/completions": {"model": "tiny", "messages": HELLO, "logit_bias": {"1": 2}},
        "/v1/completions": {"model": "tiny", "prompt": "a", "return_token_ids": True},
        "/v1/responses": {"model": "tiny", "input": "a", "text": {"format": {"type": "text"}}},
        "/v1/messages": {"model": "tiny", "max_tokens": 4, "messages": HELLO},
        "/v1/messages/count_tokens": {"model": "tiny", "messages": HELLO},
        "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [300]},
    }
    for path, body in bodies.items():
        operation = document["paths"][path]["post"]
        validate(document, operation["requestBody"]["content"], body)
        answer = (await post(gateway, path, body)).json()
        validate(document, operation["responses"]["200"]["content"], answer)
        with pytest.raises(jsonschema.ValidationError):
            validate(document, operation["requestBody"]["content"], {**body, "zzz": 1})
    for path, operations in document["paths"].items():
        if "get" in operations and "{" not in path:
            assert (await gateway.client.get(path)).status_code == 200


def validate(document: Any, content: Any, value: Any) -> None:
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


async def test_the_docs_page_names_every_field_and_loads_nothing(gateway: Any) -> None:
    response = await gateway.client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    document = (await gateway.client.get("/openapi.json")).json()
    fields = document["components"]["schemas"]["ChatBody"]["properties"]
    assert all(f"<code>{field}</code>" in response.text for field in fields)
    assert "http" not in response.text.replace("http-equiv", "") and "<script" not in response.text
    assert json.dumps(document)
