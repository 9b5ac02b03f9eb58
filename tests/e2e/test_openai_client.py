"""The official client against `baton up` on the bundled model, as README shows it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import baton

MODEL = Path(baton.__file__).parent / "demo_model"


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Any]) -> Iterator[Any]:
    started = start_cluster(MODEL)
    yield started
    started.stop()


@pytest.fixture
def client(cluster: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none") as opened:
        yield opened


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL.name]


def test_chat_answers_in_a_sentence(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL.name,
        messages=[{"role": "user", "content": "What is Baton?"}],
        temperature=0,
        max_tokens=200,
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert "Baton" in (choice.message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 5


def test_a_stream_adds_up_to_the_same_answer(client: openai.OpenAI) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL.name,
        "messages": [{"role": "user", "content": "What does the router do?"}],
        "temperature": 0,
        "max_tokens": 200,
    }
    whole = client.chat.completions.create(**arguments).choices[0].message.content
    chunks = list(
        client.chat.completions.create(
            **arguments, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole
    assert chunks[-1].usage is not None
    assert len([c for c in chunks if c.choices and c.choices[0].finish_reason]) == 1


def test_completion_and_its_stream_agree(client: openai.OpenAI) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL.name,
        "prompt": "Baton serves large language models on two",
        "temperature": 0,
        "max_tokens": 30,
    }
    whole = client.completions.create(**arguments).choices[0].text
    stream = client.completions.create(**arguments, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole


def test_a_seed_gives_the_same_sample_again(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = client.chat.completions.create(
            model=MODEL.name,
            messages=[{"role": "user", "content": "Tell me a short story."}],
            temperature=1.0,
            seed=seed,
            max_tokens=40,
        )
        return answer.choices[0].message.content or ""

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(5)}) > 1


def completed(client: openai.OpenAI, stream: bool, prompt: Any, **fields: Any) -> tuple[str, Any]:
    """A completion, greedy unless told: its text, and its last chunk or the whole."""
    own = {name: fields.pop(name) for name in list(fields) if name in OWN_FIELDS}
    ask: Any = {"model": MODEL.name, "prompt": prompt, "temperature": 0, "extra_body": own}
    ask |= fields
    if not stream:
        whole = client.completions.create(**ask)
        return whole.choices[0].text, whole
    options: Any = {"include_usage": True}
    *chunks, usage = client.completions.create(**ask, stream=True, stream_options=options)
    text = "".join(chunk.choices[0].text for chunk in chunks)
    return text, chunks[-1].model_copy(update={"usage": usage.usage})


OWN_FIELDS = ("stop_token_ids", "min_tokens", "ignore_eos", "return_token_ids", "top_k", "min_p")
BEGINNING = "Baton serves large language models on two"


@pytest.mark.parametrize("stream", [False, True])
def test_a_bias_forbids_and_forces_tokens(client: openai.OpenAI, stream: bool) -> None:
    plain = client.completions.create(
        model=MODEL.name, prompt=BEGINNING, temperature=0, max_tokens=4,
        extra_body={"return_token_ids": True},
    )  # fmt: skip
    [first, *_] = plain.choices[0].token_ids  # type: ignore[attr-defined]
    forbidden, _ = completed(client, stream, BEGINNING, max_tokens=4, logit_bias={str(first): -100})
    assert not forbidden.startswith(plain.choices[0].text[:3])
    forced, whole = completed(client, stream, BEGINNING, max_tokens=4, logit_bias={str(first): 100})
    assert len(forced) > 0 and forced == forced[: len(forced) // 4] * 4
    assert whole.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_stop_tokens_and_least_numbers_of_tokens_are_obeyed(
    client: openai.OpenAI, stream: bool
) -> None:
    plain = client.completions.create(
        model=MODEL.name, prompt=BEGINNING, temperature=0, max_tokens=8,
        extra_body={"return_token_ids": True},
    )  # fmt: skip
    tokens: list[int] = plain.choices[0].token_ids  # type: ignore[attr-defined]
    stop = tokens[5]
    at = tokens.index(stop)
    text, whole = completed(client, stream, BEGINNING, max_tokens=8, stop_token_ids=[stop])
    assert plain.choices[0].text.startswith(text)
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (at + 1, "stop")
    longer = {"max_tokens": 12, "stop_token_ids": [stop], "min_tokens": 8}
    _, whole = completed(client, stream, BEGINNING, **longer)
    assert whole.usage.completion_tokens >= 8


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_and_the_least_likely_tokens_cut_off(client: openai.OpenAI, stream: bool) -> None:
    plain, _ = completed(client, stream, BEGINNING, max_tokens=8)
    echoed, _ = completed(client, stream, BEGINNING, max_tokens=8, echo=True)
    assert echoed == BEGINNING + plain
    for only_one in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}):
        hot: Any = {**only_one, "max_tokens": 8, "seed": 3, "temperature": 1.5}
        assert completed(client, stream, BEGINNING, **hot)[0] == plain, only_one


def test_a_repeated_prompt_is_found_in_the_cache(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Please repeat these words: " + "cat dog " * 60}]
    usages = [
        client.chat.completions.create(
            model=MODEL.name, messages=messages, temperature=0, max_tokens=4
        ).usage
        for _ in range(2)
    ]
    assert usages[1] is not None
    assert usages[1].prompt_tokens_details is not None
    assert (usages[1].prompt_tokens_details.cached_tokens or 0) > 0


def test_an_unknown_model_is_an_openai_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'nothing' does not exist") as raised:
        client.completions.create(model="nothing", prompt="a")
    assert raised.value.code == "model_not_found"


def test_too_long_a_prompt_names_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"\d+.*\d+"):
        client.completions.create(model=MODEL.name, prompt="word " * 20_000, max_tokens=10)


def test_the_metrics_count_what_was_served(cluster: Any) -> None:
    text = httpx.get(f"{cluster.url}/metrics", timeout=60).text
    served = re.findall(r"^baton_output_tokens_total (\S+)$", text, re.MULTILINE)
    assert len(served) == 1
    assert float(served[0]) > 0
    assert re.search(r'^baton_transfers_total{outcome="ok",transport="shm"}', text, re.MULTILINE)


def test_the_version_is_told(cluster: Any) -> None:
    assert "version" in json.loads(httpx.get(f"{cluster.url}/version", timeout=60).text)
