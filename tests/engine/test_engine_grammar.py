"""Answers that follow a grammar, whatever the model would rather say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.grammar import GrammarMatchers
from wire.errors import BatonError
from wire.messages import FinishReason, Grammar, GrammarKind

VOCAB = 320
END = 2
DIGITS = Grammar(GrammarKind.REGEX, "[0-9]{3}-[a-f]{2,5}")
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"enum": [10, 200]}},
    "required": ["ok", "size"],
    "additionalProperties": False,
}
OBJECT = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    """Three special tokens, then one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<pad>", "<s>", "</s>", *alphabet]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<pad>", "<s>", "</s>"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return made, path


@pytest.fixture
def matchers(tokenizer: tuple[Tokenizer, Path]) -> Iterator[GrammarMatchers]:
    made = GrammarMatchers(tokenizer[1], VOCAB, (END,))
    yield made
    made.close()


@pytest.fixture
def guided(drive, oracle, matchers):
    """Makes engines that follow grammars."""

    def make(**limits: int):
        driver = drive(oracle.model, **limits)
        driver.engine._open_matcher = matchers.open
        return driver

    return make


def request_with(make_request, seq_id: int, prompt, grammar: Grammar, **sampling: object):
    settings = {"ignore_eos": False, "temperature": 1.5, "seed": seq_id, **sampling}
    return make_request(seq_id, prompt, 60, grammar=grammar, **settings)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_every_answer_matches_its_grammar_and_ends_by_itself(
    guided, make_request, make_prompt, tokenizer, temperature: float
) -> None:
    driver = guided()
    for seq_id in range(6):
        grammar = OBJECT if seq_id % 2 else DIGITS
        prompt = make_prompt(9 + seq_id)
        driver.engine.add(
            request_with(make_request, seq_id, prompt, grammar, temperature=temperature)
        )
    driver.engine.add(make_request(6, make_prompt(5), 5))
    answers = driver.run()
    for seq_id in range(6):
        text = tokenizer[0].decode(answers[seq_id])
        assert driver.streams[seq_id].finish is FinishReason.STOP, text
        assert answers[seq_id][-1] == END
        if seq_id % 2:
            assert set(json.loads(text)) == {"ok", "size"}
        else:
            assert re.fullmatch("[0-9]{3}-[a-f]{2,5}", text)
    assert len(answers[6]) == 5


def test_a_guided_answer_survives_preemption(guided, make_request, make_prompt) -> None:
    requests = [request_with(make_request, i, make_prompt(20 + i), OBJECT) for i in range(4)]
    roomy, crowded = guided(), guided(num_blocks=7)
    for driver in (roomy, crowded):
        for request in requests:
            driver.engine.add(request)
    assert roomy.run() == crowded.run()
    assert crowded.engine.load().num_preemptions > 0


@pytest.mark.parametrize("known", [1, 3, 5])
def test_a_guided_answer_resumes_by_replaying_what_was_sent(
    guided, make_request, make_prompt, known: int
) -> None:
    prompt = make_prompt(21)
    first = guided()
    first.engine.add(request_with(make_request, 0, prompt, OBJECT))
    whole = first.run()[0]
    second = guided()
    resumed = make_request(
        0,
        prompt,
        60,
        grammar=OBJECT,
        ignore_eos=False,
        temperature=1.5,
        outputs=tuple(whole[:known]),
    )
    second.engine.add(resumed)
    assert second.run()[0] == whole[known:]


def test_tokens_that_come_with_the_cache_move_the_grammar_on(
    guided, make_request, make_prompt
) -> None:
    prompt = make_prompt(21)
    first = guided()
    first.engine.add(request_with(make_request, 0, prompt, DIGITS))
    whole = first.run()[0]
    second = guided()
    assert second.engine.reserve(request_with(make_request, 0, prompt, DIGITS)) is not None
    second.engine.activate(0, 0, tuple(whole[:1]))
    assert second.run()[0] == whole[1:]


def test_a_grammar_that_cannot_go_on_fails_its_sequence_alone(
    guided, make_request, make_prompt
) -> None:
    driver = guided()
    bad = Grammar(GrammarKind.LARK, "start: nothing")
    driver.engine.add(request_with(make_request, 0, make_prompt(9), bad))
    driver.engine.add(make_request(1, make_prompt(12), 4))
    failed = []
    while (plan := driver.engine.schedule()) is not None:
        result = driver.engine.execute(plan)
        failed += result.failed
        for output in result.outputs:
            driver._record(output)
    assert failed == [0]
    assert len(driver.streams[1].tokens) == 4


def test_an_engine_without_a_tokenizer_refuses_grammars(
    drive, oracle, make_request, make_prompt
) -> None:
    with pytest.raises(BatonError, match="grammars"):
        drive(oracle.model).engine.add(request_with(make_request, 0, make_prompt(9), DIGITS))
