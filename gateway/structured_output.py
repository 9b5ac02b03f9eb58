"""What a request asks of its answer's form, as one grammar."""

import asyncio
import json
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any

import msgspec
from llguidance import LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark
from tokenizers import Tokenizer

from gateway.errors import invalid
from gateway.openai import CommonBody, StructuredOutputs
from wire.errors import BatonError
from wire.grammar import choice_grammar, load_tokenizer, open_matcher
from wire.messages import Grammar, GrammarKind

_COMPILE_TIMEOUT_S = 10.0
_KEPT_RESULTS = 256
_ANY_OBJECT = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}')


def asked_grammar(body: CommonBody, call: Grammar | None = None) -> tuple[Grammar, str] | None:
    """The grammar and the field that asks for it. Raises ApiError 400 for two of them, for one
    that is no grammar, and for fields that no grammar goes with.

    call: of a tool call that the answer has to be.
    """
    asked = [found for found in (_response_format(body), *_guided(body)) if found is not None]
    if call is not None:
        asked.append((call, "tool_choice"))
    if not asked:
        return None
    if len(asked) > 1:
        fields = " and ".join(field for _, field in asked)
        raise invalid(f"{fields} exclude each other", asked[1][1])
    for field in ("ignore_eos", "min_tokens"):
        if getattr(body, field):
            message = f"{field} does not go with {asked[0][1]}, which decides where the answer ends"
            raise invalid(message, field)
    return asked[0]


class GrammarChecker:
    """Compiles grammars before any worker sees them; close() ends its thread."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos: Collection[int],
        compile_timeout_s: float = _COMPILE_TIMEOUT_S,
    ) -> None:
        """compile_timeout_s: for a grammar and those that are compiled before it. The work on one
        is bounded by wire.grammar's limits, so the thread is never lost to it."""
        self._timeout_s = compile_timeout_s
        self._source = tokenizer
        self._vocab_size = vocab_size
        self._eos = eos
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._fault = lru_cache(_KEPT_RESULTS)(self._compile)

    async def check(self, grammar: Grammar, field: str) -> None:
        """Raises ApiError 400 with the reason when the grammar does not compile in time."""
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._fault, grammar)
        try:
            async with asyncio.timeout(self._timeout_s):
                fault = await running
        except TimeoutError:
            fault = f"the grammar did not compile within {self._timeout_s:g} s"
        if fault:
            raise invalid(f"{field}: {fault}", field, "invalid_grammar")

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _compile(self, grammar: Grammar) -> str:
        """Why the grammar cannot be used; empty if it can. The first mask is part of the proof."""
        try:
            matcher = open_matcher(self._tokenizer, grammar)
            matcher.compute_bitmask()
        except BatonError as error:
            return error.message
        except ValueError as error:
            return str(error)
        return matcher.get_error()

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return load_tokenizer(self._source.to_str(), self._vocab_size, self._eos)


def schema_grammar(schema: Any, field: str) -> Grammar:
    """schema: an object, true or false, or the text of one."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise invalid(f"{field} is not valid JSON: {error}", field) from error
    if not isinstance(schema, dict | bool):
        raise invalid(f"{field} must be a JSON schema: an object, true or false", field)
    if schema is False:
        raise invalid(f"{field} is false, which allows no answer", field, "invalid_grammar")
    schema = {} if schema is True else schema
    return Grammar(GrammarKind.JSON_SCHEMA, msgspec.json.encode(schema).decode())


def _response_format(body: CommonBody) -> tuple[Grammar, str] | None:
    asked = body.response_format
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return _ANY_OBJECT, "response_format"
    if asked.type == "json_schema" and asked.json_schema is not None:
        field = "response_format.json_schema.schema"
        return schema_grammar(asked.json_schema.schema, field), field
    if asked.type == "json_schema":
        field = "response_format.json_schema"
        raise invalid(f"{field} is required with the type json_schema", field)
    message = f"must be text, json_object or json_schema, is {asked.type!r}"
    raise invalid(f"response_format.type {message}", "response_format.type")


def _guided(body: CommonBody) -> list[tuple[Grammar, str]]:
    nested = body.structured_outputs or StructuredOutputs()
    found = []
    for prefix, holder in (("guided_", body), ("structured_outputs.", nested)):
        is_nested = holder is nested
        for kind, make in _GUIDED.items():
            field = prefix + kind
            value = getattr(holder, kind if is_nested else field)
            if value is not None:
                found.append((make(value, field), field))
    if nested.json_object:
        found.append((_ANY_OBJECT, "structured_outputs.json_object"))
    return found


def _choice(choices: list[str], field: str) -> Grammar:
    if not choices or "" in choices:
        raise invalid(f"{field} must be a list of strings that are not empty", field)
    return choice_grammar(choices)


def _lark(text: str, field: str) -> Grammar:
    """Lark, or GBNF, the notation of llama.cpp."""
    try:
        return Grammar(GrammarKind.LARK, any_to_lark(text))
    except Exception as error:  # the converter raises plain Exception for what it cannot read
        raise invalid(f"{field}: {error}", field, "invalid_grammar") from error


_GUIDED: dict[str, Callable[[Any, str], Grammar]] = {
    "json": schema_grammar,
    "regex": lambda text, _: Grammar(GrammarKind.REGEX, text),
    "choice": _choice,
    "grammar": _lark,
}
