"""Grammars compile within limits, or are refused with the reason."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from wire.errors import BatonError, ErrorCode
from wire.grammar import MAX_GRAMMAR_CHARACTERS, choice_grammar, load_tokenizer, open_matcher
from wire.messages import Grammar, GrammarKind


def byte_tokenizer() -> Tokenizer:
    tokens = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


TOKENIZER = byte_tokenizer()
LOADED = load_tokenizer(TOKENIZER.to_str(), 257, {0})


def accepts(grammar: Grammar, text: str) -> bool:
    matcher = open_matcher(LOADED, grammar)
    tokens = TOKENIZER.encode(text, add_special_tokens=False).ids
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4), st.text(max_size=6))
@example(["\x7f", '"'], "\x00")
@settings(max_examples=60)
def test_a_choice_matches_its_strings_and_no_other(choices: list[str], other: str) -> None:
    grammar = choice_grammar(choices)
    assert all(accepts(grammar, choice) for choice in choices)
    assert accepts(grammar, other) == (other in choices)


def test_a_schema_takes_pretty_json_and_no_endless_white_space() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "null"}}}}
    grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
    for indent in (None, 2, 4):
        assert accepts(grammar, json.dumps({"a": [None, None]}, indent=indent))
    assert not accepts(grammar, '{"a":' + " " * 50 + "[]}")
    assert not accepts(grammar, '{"a": [1]}')


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (GrammarKind.JSON_SCHEMA, '{"type": "prose"}', "prose"),
        (GrammarKind.JSON_SCHEMA, '{"type":', "compiled"),
        (GrammarKind.JSON_SCHEMA, '{"$ref": "http://127.0.0.1/x"}', "http://127.0.0.1/x"),
        (GrammarKind.REGEX, "(a", "unclosed group"),
        (GrammarKind.LARK, "start: missing", "missing"),
        (GrammarKind.REGEX, "a" * (MAX_GRAMMAR_CHARACTERS + 1), str(MAX_GRAMMAR_CHARACTERS)),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_the_reason(
    kind: GrammarKind, text: str, reason: str
) -> None:
    with pytest.raises(BatonError, match=re.escape(reason)) as caught:
        open_matcher(LOADED, Grammar(kind, text))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert len(caught.value.message) < 500
