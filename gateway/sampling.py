"""A request's sampling fields: checked against their ranges, filled up with defaults."""

import secrets
from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import UNSET, UnsetType

from gateway.errors import invalid
from gateway.limits import Limits
from gateway.openai import CommonBody, Whole, body_logprobs
from gateway.sampling_defaults import NEUTRAL, RANGES, Range, SamplingDefaults
from wire.messages import Grammar, SamplingParams

MAX_STOP_STRINGS = 16
MAX_SALT_CHARACTERS = 256
MAX_TOP_LOGPROBS = 20
MAX_BIASED_TOKENS = 1024
MAX_BIAS = 100
N = TypeVar("N", int, float)

_RANGES = (
    *RANGES,
    Range("max_completion_tokens", 1, 2**31 - 1),
    Range("min_tokens", 0, 2**31 - 1),
    Range("seed", -(2**63), 2**63 - 1),
    Range("n", 1, 128),
    Range("logprobs", 0, MAX_TOP_LOGPROBS),
    Range("top_logprobs", 0, MAX_TOP_LOGPROBS),
    Range("priority", -(2**31), 2**31 - 1),
)


def check_ranges(body: CommonBody, vocab_size: int) -> None:
    """Raises ApiError 400 naming the field, its value and its limits."""
    for limits in _RANGES:
        limits.check(getattr(body, limits.field, None))
    check_token_ids(body.stop_token_ids or (), vocab_size, "stop_token_ids")
    _check_bias(body.logit_bias or {}, vocab_size)
    stops = stop_strings(body)
    if len(stops) > MAX_STOP_STRINGS:
        raise invalid(f"stop has {len(stops)} strings, at most {MAX_STOP_STRINGS} go", "stop")
    if "" in stops:
        raise invalid("stop must not be an empty string", "stop")
    if len(body.cache_salt or "") > MAX_SALT_CHARACTERS:
        raise invalid(f"cache_salt is over {MAX_SALT_CHARACTERS} characters", "cache_salt")
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options needs stream to be true", "stream_options")


def _check_bias(logit_bias: Mapping[str, float], vocab_size: int) -> None:
    if len(logit_bias) > MAX_BIASED_TOKENS:
        message = f"logit_bias has {len(logit_bias)} tokens, at most {MAX_BIASED_TOKENS} go"
        raise invalid(message, "logit_bias")
    for key, bias in logit_bias.items():
        if not (key.isascii() and key.isdigit() and int(key[:12]) < vocab_size):
            message = f"logit_bias has the key {key!r}; it takes token ids, 0 to {vocab_size - 1}"
            raise invalid(message, "logit_bias")
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            message = f"logit_bias of token {key} must be from -{MAX_BIAS} to {MAX_BIAS}, is {bias}"
            raise invalid(message, "logit_bias")


def check_token_ids(token_ids: Sequence[int], vocab_size: int, field: str) -> None:
    if token_ids and (min(token_ids) < 0 or max(token_ids) >= vocab_size):
        wrong = next(token for token in token_ids if not 0 <= token < vocab_size)
        message = f"{field} has the token id {wrong}; the model's go from 0 to {vocab_size - 1}"
        raise invalid(message, field)


def stop_strings(body: CommonBody) -> tuple[str, ...]:
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)


def answer_limit(
    num_prompt_tokens: int, wanted: Whole, default: int, max_model_len: int, field: str
) -> int:
    """How many tokens the answer may have: what is wanted, else the default as far as the context
    goes, 0 being no other limit.

    Raises ApiError 400 context_length_exceeded with both numbers when they do not fit.
    """
    room = max_model_len - num_prompt_tokens
    asked = wanted or 0
    if room >= (asked or 1):
        return asked or (min(default, room) if default and wanted is UNSET else room)
    answer = f"{asked} for max_tokens" if asked else "at least 1 for the answer"
    message = (
        f"the model's context holds {max_model_len} tokens, but the request needs "
        f"{num_prompt_tokens + (asked or 1)}: {num_prompt_tokens} in the prompt and {answer}"
    )
    raise invalid(message, field, "context_length_exceeded")


def check_choices(num_choices: int, limits: Limits) -> None:
    if num_choices > limits.max_choices:
        message = f"n times the number of prompts is {num_choices}"
        raise invalid(f"{message}, at most {limits.max_choices} choices go", "n")


def check_prompt(num_tokens: int, limits: Limits, field: str) -> None:
    if limits.max_prompt_tokens and num_tokens > limits.max_prompt_tokens:
        message = f"the prompt has {num_tokens} tokens, at most {limits.max_prompt_tokens} go"
        raise invalid(message, field, "prompt_too_long")


def sampling_params(
    body: CommonBody, defaults: SamplingDefaults, max_tokens: int, grammar: Grammar | None = None
) -> SamplingParams:
    """Raises ApiError 400 when min_tokens is over max_tokens. Without a seed it is random."""
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        message = f"min_tokens is {min_tokens}, over max_tokens, {max_tokens}"
        raise invalid(message, "min_tokens")
    return SamplingParams(
        temperature=_given(body.temperature, defaults.temperature, NEUTRAL.temperature),
        top_p=_given(body.top_p, defaults.top_p, NEUTRAL.top_p),
        top_k=max(0, _given(body.top_k, defaults.top_k, NEUTRAL.top_k)),
        min_p=_given(body.min_p, defaults.min_p, NEUTRAL.min_p),
        repetition_penalty=_given(
            body.repetition_penalty, defaults.repetition_penalty, NEUTRAL.repetition_penalty
        ),
        presence_penalty=_given(
            body.presence_penalty, defaults.presence_penalty, NEUTRAL.presence_penalty
        ),
        frequency_penalty=_given(
            body.frequency_penalty, defaults.frequency_penalty, NEUTRAL.frequency_penalty
        ),
        seed=secrets.randbits(64) if body.seed is None else body.seed % 2**64,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=bool(body.ignore_eos),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=tuple(
            (int(token), bias) for token, bias in (body.logit_bias or {}).items() if bias
        ),
        top_logprobs=body_logprobs(body),
        grammar=grammar,
    )


def _given(value: N | None | UnsetType, omitted: N, none: N) -> N:
    if value is UNSET:
        return omitted
    return none if value is None else value
