"""A model directory that cannot be served is refused with a message that names the file."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from gateway.model_directory import ModelDirectoryError, read_model_directory


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", None, "missing"),
        ("config.json", b"{", "not valid JSON"),
        ("config.json", b"[]", "JSON object"),
        ("config.json", b'{"vocab_size": 5}', "max_position_embeddings"),
        ("config.json", b'{"max_position_embeddings": 5, "vocab_size": "x"}', "vocab_size"),
        ("tokenizer.json", None, "missing"),
        ("tokenizer.json", b'{"model": 1}', "not a tokenizer"),
        ("tokenizer.json", b"\xff\xfe", "not valid JSON"),
        ("tokenizer_config.json", b"{", "not valid JSON"),
        ("tokenizer_config.json", b'{"chat_template": "{% if %}"}', "template"),
        ("tokenizer_config.json", b'{"chat_template": 5}', "template"),
        ("generation_config.json", b"nope", "not valid JSON"),
        ("generation_config.json", b'{"temperature": "hot"}', "temperature"),
        ("generation_config.json", b'{"top_p": 0}', "top_p"),
        ("generation_config.json", b'{"top_k": 0.5}', "top_k"),
        ("chat_template.jinja", b"\xff", "cannot be read"),
    ],
)
def test_a_missing_or_corrupt_model_file_is_named(
    byte_level_tokenizer: Tokenizer,
    tmp_path: Path,
    write_model: Callable[..., Path],
    file: str,
    content: bytes | None,
    reason: str,
) -> None:
    path = write_model(tmp_path / "m", byte_level_tokenizer)
    if content is None:
        (path / file).unlink()
    else:
        (path / file).write_bytes(content)
    with pytest.raises(ModelDirectoryError) as raised:
        read_model_directory(path)
    assert str(path / file) in str(raised.value)
    assert reason in str(raised.value)


def test_a_model_directory_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="is not a directory"):
        read_model_directory(tmp_path / "nothing")


def test_a_context_over_the_models_own_is_refused(model_path: Path) -> None:
    with pytest.raises(ModelDirectoryError, match="257"):
        read_model_directory(model_path, max_model_len=257)
    assert read_model_directory(model_path, max_model_len=64).max_model_len == 64


@pytest.mark.parametrize(
    ("generation", "temperature", "top_k"),
    [
        (b"{}", 1.0, 0),
        (b'{"temperature": 0.6, "top_k": 20, "do_sample": false}', 0.6, 20),
        (b'{"do_sample": false, "top_k": -1}', 0.0, 0),
        (b'{"temperature": null, "do_sample": true}', 1.0, 0),
    ],
)
def test_defaults_come_from_the_generation_config(
    byte_level_tokenizer: Tokenizer,
    tmp_path: Path,
    write_model: Callable[..., Path],
    generation: bytes,
    temperature: float,
    top_k: int,
) -> None:
    path = write_model(tmp_path / "m", byte_level_tokenizer)
    (path / "generation_config.json").write_bytes(generation)
    defaults = read_model_directory(path).defaults
    assert (defaults.temperature, defaults.top_k) == (temperature, top_k)


def test_truncation_and_padding_of_a_tokenizer_file_are_switched_off(
    byte_level_tokenizer: Tokenizer, tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    cutting = Tokenizer.from_str(byte_level_tokenizer.to_str())
    cutting.enable_truncation(4)
    cutting.enable_padding(length=16)
    tokenizer = read_model_directory(write_model(tmp_path / "m", cutting)).tokenizer
    for text in ("a", "the relay of the pool and the pair of workers"):
        assert tokenizer.encode(text).ids == byte_level_tokenizer.encode(text).ids
