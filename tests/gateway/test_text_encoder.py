"""The fast tokenizer gives what Hugging Face's gives, or it is not used."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import baton
from gateway.text_encoder import exact_encoder, fast_encoder, probe_texts
from gateway.tokenizer import PromptEncoder

DEMO = Path(baton.__file__).parent / "demo_model" / "tokenizer.json"
CORPUS = [
    "The quick brown fox doesn't jump over 1234 lazy dogs.\n\n  It's naïve: don't you think?",
    "def f(x):\n    return x + 1  # été, größer, 日本語, 한국어, مرحبا 🙂👩\u200d👧",
] * 3
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CHARACTERS = st.characters(codec="utf-8")
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*CORPUS, "<|im_start|>", "<|im_", "|>", "<s>", " ", "\n", "'s", "x" * 99]),
        st.text(CHARACTERS, max_size=30),
    ),
    max_size=12,
).map("".join)


def demo() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO))


def byte_level(split: str, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), "isolated"), bytes_of]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def qwen_like() -> Tokenizer:
    """A normalizer, and added tokens with marks of all kinds."""
    tokenizer = byte_level(QWEN_SPLIT, normalizers.NFC())
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(
        [
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("  1", lstrip=True, rstrip=True, normalized=False),
            AddedToken("é", normalized=True),
        ]
    )
    return tokenizer


def llama3_like() -> Tokenizer:
    """Whole words of the vocabulary go before merges, and a token goes before each text."""
    trained = byte_level(LLAMA_SPLIT, None)
    trained.model.ignore_merges = True
    trained.add_special_tokens(["<s>"])
    begin = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 500)])
    trained.post_processor = begin
    return trained


def sentence_piece_like() -> Tokenizer:
    """Llama 2's: spaces are a character, what is unknown is bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    special = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581a", -1.0), ("b", -2.0)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


KINDS = {kind.__name__: kind for kind in (demo, qwen_like, llama3_like, sentence_piece_like)}
TOKENIZERS = {name: kind() for name, kind in KINDS.items()}
FAST = {name: fast_encoder(tokenizer) for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150)
@given(texts=st.lists(TEXTS, max_size=3), special=st.booleans())
def test_what_is_used_gives_the_tokens_of_the_reference(
    name: str, texts: list[str], special: bool
) -> None:
    fast = FAST[name]
    if fast is not None:
        assert fast(texts, special) == exact_encoder(TOKENIZERS[name])(texts, special)


def test_the_bundled_model_and_the_usual_families_are_fast() -> None:
    assert {name for name, fast in FAST.items() if fast} >= {"demo", "llama3_like"}


def test_a_kind_that_is_not_known_is_left_to_the_reference() -> None:
    assert fast_encoder(unigram()) is None


def test_one_that_would_give_other_tokens_is_left_to_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = llama3_like().to_str()
    monkeypatch.setattr(Tokenizer, "to_str", lambda self: other)
    assert fast_encoder(TOKENIZERS["demo"]) is None


def test_the_probes_hold_the_tokens_that_were_added() -> None:
    texts = "".join(probe_texts(TOKENIZERS["qwen_like"]))
    assert "<|im_start|>" in texts
    assert "<|im_end|>" in texts


@pytest.mark.parametrize("text", ["a", " ", "\n", "1", "!", "日", "<|im_start|>", "<|im_"])
async def test_a_long_run_of_the_same_is_tokenized_as_the_reference_does(text: str) -> None:
    encoder = PromptEncoder(TOKENIZERS["demo"])
    [found] = await encoder.encode([text * 30_000], add_special_tokens=True)
    encoder.close()
    assert [list(found.tokens)] == exact_encoder(TOKENIZERS["demo"])([text * 30_000], True)
