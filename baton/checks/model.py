"""A model directory: its files, architecture, tokenizer, chat template."""

from collections.abc import Iterator
from pathlib import Path

from baton.checks.check import Check, State
from baton.preflight import PreflightError, check_model
from engine.errors import ModelError
from engine.fallback.config import read_config
from runtime.sizes import format_bytes


def check_model_directory(directory: Path) -> Iterator[Check]:
    try:
        facts = check_model(directory)
        config = read_config(directory)
    except (PreflightError, ModelError) as error:
        yield Check("model", State.FAILED, str(error))
        return
    dtype = str(config.dtype).removeprefix("torch.")
    token_bytes = config.kv_bytes_per_token(config.dtype)
    foreign = " (through transformers' layers, slower)" if config.is_foreign else ""
    yield Check(
        "model",
        State.OK,
        f"{facts.directory}: {config.architecture}{foreign}, {config.num_layers} layers, "
        f"{format_bytes(facts.weight_bytes)} of weights, {dtype}",
    )
    yield Check(
        "context",
        State.OK,
        f"{facts.max_model_len:,} tokens; KV {format_bytes(token_bytes)} a token",
    )
    if facts.has_chat_template:
        yield Check("chat template", State.OK, "valid")
    else:
        yield Check("chat template", State.ABSENT, "/v1/completions only")
