"""What the gateway needs of a model directory: tokenizer, chat template, limits, defaults."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from gateway.chat_template import ChatTemplate, TemplateError
from gateway.detokenizer import DetokenizerFactory
from gateway.sampling_defaults import SamplingDefaults


class ModelDirectoryError(Exception):
    """A model directory that cannot be served; the message names the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model as the gateway serves it. template: None where the model has no chat format.

    defaults: generation_config.json's, for what a request leaves out.
    """

    name: str
    max_model_len: int  # prompt and answer together, in tokens
    vocab_size: int
    eos_token_ids: frozenset[int]
    defaults: SamplingDefaults
    tokenizer: Tokenizer
    detokenizers: DetokenizerFactory
    template: ChatTemplate | None


def read_model_directory(path: Path, name: str = "", max_model_len: int = 0) -> ModelFiles:
    """Reads and checks the files. name: what clients call the model; empty: the directory's name.

    Raises ModelDirectoryError for a missing or corrupt file, and for a max_model_len above the
    model's own.
    """
    if not path.is_dir():
        raise ModelDirectoryError(path, "is not a directory")
    config_path = path / "config.json"
    config = _read_json(config_path)
    limit = _positive(config_path, config, "max_position_embeddings")
    if max_model_len > limit:
        reason = f"max_model_len {max_model_len} is over max_position_embeddings, {limit}"
        raise ModelDirectoryError(config_path, reason)
    generation = _read_optional(path / "generation_config.json")
    tokenizer_json = _read_json(path / "tokenizer.json")
    tokenizer = _read_tokenizer(path / "tokenizer.json")
    decoder = tokenizer_json.get("decoder")
    return ModelFiles(
        name=name or path.resolve().name,
        max_model_len=max_model_len or limit,
        vocab_size=_positive(config_path, config, "vocab_size"),
        eos_token_ids=_token_ids(generation, "eos_token_id") or _token_ids(config, "eos_token_id"),
        defaults=_read_defaults(path / "generation_config.json", generation),
        tokenizer=tokenizer,
        detokenizers=DetokenizerFactory(tokenizer, decoder if isinstance(decoder, dict) else {}),
        template=_read_template(path),
    )


def _read_json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelDirectoryError(path, "file is missing") from None
    except OSError as error:
        raise ModelDirectoryError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelDirectoryError(path, f"is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelDirectoryError(path, "must hold a JSON object")
    return values


def _read_optional(path: Path) -> dict[str, object]:
    return _read_json(path) if path.exists() else {}


def _positive(path: Path, values: Mapping[str, object], field: str) -> int:
    value = values.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelDirectoryError(path, f"field {field!r} must be a positive integer, is {value!r}")
    return value


def _token_ids(values: Mapping[str, object], field: str) -> frozenset[int]:
    value = values.get(field)
    items = value if isinstance(value, list) else [value]
    return frozenset(item for item in items if isinstance(item, int))


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for anything it cannot read
        raise ModelDirectoryError(path, f"is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_defaults(path: Path, values: Mapping[str, object]) -> SamplingDefaults:
    top_k = values.get("top_k")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < -1):
        raise ModelDirectoryError(path, f"field 'top_k' must be 0 or more, is {top_k!r}")
    # An explicit do_sample: false is the model's wish for greedy answers.
    temperature = 0.0 if values.get("do_sample") is False else 1.0
    return SamplingDefaults(
        temperature=_number(path, values, "temperature", 0.0, 2.0, temperature),
        top_p=_number(path, values, "top_p", math.ulp(0.0), 1.0, 1.0),
        top_k=max(0, top_k or 0),
        min_p=_number(path, values, "min_p", 0.0, 1.0, 0.0),
        repetition_penalty=_number(path, values, "repetition_penalty", math.ulp(0.0), 10.0, 1.0),
    )


def _number(
    path: Path,
    values: Mapping[str, object],
    field: str,
    lowest: float,
    highest: float,
    default: float,
) -> float:
    value = values.get(field)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not lowest <= float(str(value)) <= highest:
        reason = f"field {field!r} must be a number from {lowest:g} to {highest:g}, is {value!r}"
        raise ModelDirectoryError(path, reason)
    return float(str(value))


def _read_template(path: Path) -> ChatTemplate | None:
    tokenizer_path = path / "tokenizer_config.json"
    tokenizer_config = _read_optional(tokenizer_path)
    source_path, source = _template_source(path, tokenizer_path, tokenizer_config)
    if source is None:
        return None
    special = {
        field: token
        for field in _SPECIAL_TOKENS
        if (token := _token_text(tokenizer_config.get(field))) is not None
    }
    try:
        return ChatTemplate(source, special)
    except TemplateError as error:
        reason = f"the chat template is not valid: {error}"
        raise ModelDirectoryError(source_path, reason) from error


def _template_source(
    path: Path, tokenizer_path: Path, tokenizer_config: Mapping[str, object]
) -> tuple[Path, str | None]:
    """The template and its file: its own file goes before a field of tokenizer_config.json."""
    own = path / "chat_template.jinja"
    if own.exists():
        try:
            return own, own.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelDirectoryError(own, f"cannot be read: {error}") from error
    as_json = path / "chat_template.json"
    if as_json.exists():
        return as_json, _default_template(as_json, _read_json(as_json).get("chat_template"))
    template = tokenizer_config.get("chat_template")
    return tokenizer_path, _default_template(tokenizer_path, template)


def _default_template(path: Path, value: object) -> str | None:
    """A template, or the one named "default" of a list of named ones."""
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if value is None or isinstance(value, str):
        return value
    raise ModelDirectoryError(path, "field 'chat_template' must be a string or a list of templates")


def _token_text(value: object) -> str | None:
    """A special token is written as a string, or as an object with its text under "content"."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
