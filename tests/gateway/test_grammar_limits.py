"""What is hard to compile costs a bounded time, holds nobody else up, and is refused with why."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from gateway.errors import ApiError
from gateway.model_directory import ModelFiles
from gateway.structured_output import GrammarChecker
from wire.messages import Grammar, GrammarKind

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEXT = "/v1/completions"
MAX_COMPILE_CPU_S = 5.0  # of this thread's own processor time, on any machine


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema, "b": schema}, "required": ["a"]}
    return schema


HARD: dict[str, Grammar] = {
    "repeats of repeats": Grammar(GrammarKind.REGEX, "((a{1,900}){1,900}){1,900}"),
    "a large count": Grammar(GrammarKind.REGEX, "(a|b)*a(a|b){400}"),
    "all of unicode": Grammar(GrammarKind.REGEX, r"(\p{L}{1,60}\p{N}{1,60}){1,60}"),
    "ambiguous": Grammar(GrammarKind.LARK, 'start: start start start | "a" | ""'),
    "many options": Grammar(
        GrammarKind.JSON_SCHEMA, json.dumps({"enum": [f"option {i}" for i in range(4000)]})
    ),
    "any of any of": Grammar(
        GrammarKind.JSON_SCHEMA,
        json.dumps({"anyOf": [{"properties": {f"p{i}": {"minLength": i}}} for i in range(700)]}),
    ),
    "deep": Grammar(GrammarKind.JSON_SCHEMA, json.dumps(deep(9))),
}


@pytest.fixture
def checker(model: ModelFiles) -> Any:
    checker = GrammarChecker(model.tokenizer, model.vocab_size, model.eos_token_ids)
    yield checker
    checker.close()


@pytest.mark.parametrize("name", list(HARD))
async def test_work_on_a_grammar_is_bounded(checker: GrammarChecker, name: str) -> None:
    """Taken or refused, either is soon; a refusal has a reason."""
    began_s = time.thread_time()
    fault = checker._compile(HARD[name])
    assert time.thread_time() - began_s < MAX_COMPILE_CPU_S
    assert fault == "" or len(fault) > 10


async def test_a_grammar_that_does_not_compile_in_time_is_refused_and_the_next_one_is_taken(
    model: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_let_go = threading.Event()
    compiled: list[str] = []

    def compile_slowly(_: GrammarChecker, grammar: Grammar) -> str:
        if grammar.text == "slow":
            assert is_let_go.wait(60)
        compiled.append(grammar.text)
        return ""

    monkeypatch.setattr(GrammarChecker, "_compile", compile_slowly)
    checker = GrammarChecker(model.tokenizer, model.vocab_size, model.eos_token_ids, 0.05)
    try:
        with pytest.raises(
            ApiError, match=r"guided_regex: the grammar did not compile within 0.05 s"
        ):
            await checker.check(Grammar(GrammarKind.REGEX, "slow"), "guided_regex")
        is_let_go.set()
        async with asyncio.timeout(30):
            while True:
                try:
                    await checker.check(Grammar(GrammarKind.REGEX, "quick"), "guided_regex")
                    break
                except ApiError:
                    await asyncio.sleep(0.01)
        assert compiled == ["slow", "quick"]
    finally:
        is_let_go.set()
        checker.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    model: ModelFiles, gateway_of: Callable[..., Any], answers: Callable[..., Any]
) -> AsyncIterator[Any]:
    async with gateway_of(model, lambda _: answers([300]), max_body_bytes=1 << 20) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"guided_json": {"type": "nothing"}}, "nothing"),
        ({"guided_json": {"$ref": "#/nowhere"}}, "nowhere"),
        ({"guided_json": {"type": "integer", "minimum": 5, "maximum": 4}}, "minimum"),
        ({"guided_regex": "["}, "unclosed"),
        ({"guided_grammar": "start: other"}, "other"),
        ({"guided_json": {"enum": [f"option {i}" for i in range(9000)]}}, "65536"),
    ],
)
async def test_a_form_that_cannot_be_compiled_is_a_400_with_the_reason_before_any_worker(
    gateway: Any, fields: dict[str, Any], reason: str, stream: bool
) -> None:
    num_before = len(gateway.router.requests)
    body = {"model": "tiny", "prompt": "x", "stream": stream, **fields}
    response = await gateway.client.post(TEXT, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_grammar", next(iter(fields)))
    assert reason in error["message"]
    assert len(gateway.router.requests) == num_before


async def test_others_are_answered_while_grammars_compile(gateway: Any) -> None:
    body = {"model": "tiny", "prompt": "x", "guided_json": json.loads(HARD["deep"].text)}
    hard = [
        asyncio.create_task(
            gateway.client.post(TEXT, json={**body, "guided_json": {**deep(8), "title": str(i)}})
        )
        for i in range(4)
    ]
    done_before = []
    for _ in range(5):
        assert (await gateway.client.post(TEXT, json={"model": "tiny", "prompt": "y"})).is_success
        done_before.append(sum(task.done() for task in hard))
    answers = await asyncio.gather(*hard)
    assert {answer.status_code for answer in answers} <= {200, 400}
    assert done_before[0] < len(hard)
