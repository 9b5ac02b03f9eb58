"""The files of the bundled model directory."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer

MODEL_DIR = Path(__file__).parents[2] / "baton" / "demo_model"
TOKENIZER = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


def read(name: str) -> dict[str, object]:
    return json.loads((MODEL_DIR / name).read_text(encoding="utf-8"))


def test_the_weights_are_at_most_16_megabytes_of_bf16():
    path = MODEL_DIR / "model.safetensors"
    assert path.stat().st_size <= 16_000_000
    with safe_open(path, "pt") as weights:
        dtypes = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert dtypes == {"BF16"}


def test_an_answer_ends_at_either_end_token():
    ends = [TOKENIZER.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>")]
    assert read("generation_config.json")["eos_token_id"] == ends
    assert read("config.json")["eos_token_id"] == ends[0]


def test_the_tokenizer_fills_the_vocabulary_of_the_model():
    assert TOKENIZER.get_vocab_size() == read("config.json")["vocab_size"]


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
def test_a_special_token_is_one_id_and_is_left_out_of_text(token):
    ids = TOKENIZER.encode(token).ids
    assert len(ids) == 1
    assert TOKENIZER.decode(ids) == ""


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    if not any(token in text for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
        ids = TOKENIZER.encode(text, add_special_tokens=False).ids
        assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_the_model_card_says_that_it_is_a_demonstration_model():
    assert "demonstration model" in (MODEL_DIR / "README.md").read_text(encoding="utf-8")
