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
