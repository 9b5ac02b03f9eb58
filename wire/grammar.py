"""Grammars as llguidance takes them, within limits that protect the process that compiles them."""

import json
from collections.abc import Callable, Collection

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from wire.errors import BatonError, ErrorCode
from wire.messages import Grammar, GrammarKind

MAX_GRAMMAR_CHARACTERS = 1 << 16
MAX_REASON_CHARACTERS = 400

# Work is counted, not timed: what compiles in the gateway compiles on every worker, too. At the
# library's 14 to 50 units a microsecond and less, these bound a compilation to about 0.1 s and a
# token's mask to about 0.02 s.
_LIMITS = LLParserLimits(
    max_items_in_row=2_000,
    initial_lexer_fuel=2_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)


def load_tokenizer(
    tokenizer_json: str, vocab_size: int, eos_token_ids: Collection[int]
) -> LLTokenizer:
    """tokenizer_json: the text of the file. Takes up to a second for a large vocabulary."""
    ends = sorted(eos_token_ids) or None
    return LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=ends)


def open_matcher(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    """A matcher at the grammar's beginning. Raises BatonError INVALID_REQUEST with the reason."""
    if len(grammar.text) > MAX_GRAMMAR_CHARACTERS:
        raise _refusal(f"has {len(grammar.text)} characters, at most {MAX_GRAMMAR_CHARACTERS} go")
    try:
        form = _FORMS[grammar.kind](grammar.text)
    except ValueError as error:
        raise _refusal(str(error)) from error
    matcher = LLMatcher(tokenizer, form, log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise _refusal(matcher.get_error())
    return matcher


def choice_grammar(choices: Collection[str]) -> Grammar:
    """A grammar that matches any one of the strings."""
    options = " | ".join(map(lark_string, choices))
    return Grammar(GrammarKind.LARK, f"start: {options}")


def lark_string(text: str) -> str:
    """The text as it stands in a Lark grammar: as in JSON, but for one control character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")


def _json_form(schema: str) -> str:
    """A small model would go on with white space for ever where any of it may stand."""
    white_space = r"[ \t]{1,2}|\r?\n[ \t]{0,40}"
    return LLMatcher.grammar_from_json_schema(schema, {"whitespace_pattern": white_space})


def _refusal(reason: str) -> BatonError:
    in_one_line = " ".join(reason.split())[:MAX_REASON_CHARACTERS]
    return BatonError(ErrorCode.INVALID_REQUEST, f"the grammar cannot be compiled: {in_one_line}")


_FORMS: dict[GrammarKind, Callable[[str], str]] = {
    GrammarKind.JSON_SCHEMA: _json_form,
    GrammarKind.REGEX: LLMatcher.grammar_from_regex,
    GrammarKind.LARK: LLMatcher.grammar_from_lark,
}
