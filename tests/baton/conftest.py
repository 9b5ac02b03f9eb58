"""A tiny model directory on disk, and a cluster of processes without a model."""

import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from baton.__main__ import main

FAKE_PROGRAM = (sys.executable, str(Path(__file__).parent / "fake_process.py"))


@pytest.fixture(scope="session")
def fake_program() -> tuple[str, ...]:
    return FAKE_PROGRAM


def write_weights(path: Path, num_bytes: int = 8) -> None:
    header = {"w": {"dtype": "F32", "shape": [num_bytes // 4], "data_offsets": [0, num_bytes]}}
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(num_bytes))


@pytest.fixture(scope="session")
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which every file is whole; its weights are those of no model."""
    directory = tmp_path_factory.mktemp("model")
    config = {"max_position_embeddings": 128, "vocab_size": 4}
    (directory / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(directory / "tokenizer.json"))
    template = {"chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}
    (directory / "tokenizer_config.json").write_text(json.dumps(template))
    write_weights(directory / "model.safetensors")
    return directory


@pytest.fixture
def model_copy(whole_model: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(whole_model, tmp_path / "model"))


@pytest.fixture(scope="session")
def weights_writer() -> Callable[..., None]:
    return write_weights


@pytest.fixture
def run_in_process(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process: (exit code, standard output)."""

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        return int(ended.value.code or 0), capsys.readouterr().out

    return run
