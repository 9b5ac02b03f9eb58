"""A text's tokens are those of its segments, and the segments that come back are kept."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

import baton
from gateway.segments import MIN_SEGMENT_CHARACTERS, SegmentCache, SegmentedTokenizer, segment_ends

DEMO = Path(baton.__file__).parent / "demo_model" / "tokenizer.json"
PIECES = st.one_of(
    st.sampled_from(
        [
            "<|im_start|>",
            "<|im_end|>",
            "<|endoftext|>",
            "<think it>",
            "<|im_",
            "end|>",
            "<tool_call>",
            "</think>",
            "\n",
            " ",
            "  ",
            "\n\n",
            "user\n",
            "é",
            "e\u0301",
            "'s",
            "1234",
            "word " * 20,
        ]
    ),  # fmt: skip
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
)
TEXTS = st.lists(PIECES, max_size=20).map("".join)


@pytest.fixture(scope="module")
def demo() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(DEMO))
    tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module")
def qwen_like(byte_level_tokenizer: Tokenizer) -> Tokenizer:
    """Qwen's steps: NFC, a split by a pattern, bytes; and tokens with marks of all kinds."""
    tokenizer = Tokenizer.from_str(byte_level_tokenizer.to_str())
    tokenizer.normalizer = normalizers.NFC()
    pattern = (
        r"'s|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens(["<tool_call>", "</think>"])
    tokenizer.add_tokens(
        [
            AddedToken("<|im_end|>\n", normalized=False),
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("  1", lstrip=True, rstrip=True, normalized=False),
            AddedToken("é", normalized=True),
        ]
    )
    return tokenizer


def check(tokenizer: Tokenizer, texts: list[str]) -> None:
    cache = SegmentCache(max_characters=400)
    segmented = SegmentedTokenizer(tokenizer, cache)
    for text in [*texts, *texts]:
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert list(segmented.tokens(text, "")) == expected
        cache.check_integrity()


@settings(max_examples=40)
@given(texts=st.lists(TEXTS, max_size=4))
def test_the_tokens_are_those_of_the_whole_text(
    byte_level_tokenizer: Tokenizer, texts: list[str]
) -> None:
    check(byte_level_tokenizer, texts)


@settings(max_examples=40)
@given(texts=st.lists(TEXTS, max_size=4))
def test_the_tokens_are_those_of_the_whole_text_for_the_bundled_model(
    demo: Tokenizer, texts: list[str]
) -> None:
    check(demo, texts)


@settings(max_examples=40)
@given(texts=st.lists(TEXTS, max_size=4))
def test_added_tokens_that_touch_or_look_around_change_nothing(
    qwen_like: Tokenizer, texts: list[str]
) -> None:
    check(qwen_like, texts)


def test_only_tokens_that_stand_alone_end_a_segment(qwen_like: Tokenizer, demo: Tokenizer) -> None:
    ends = segment_ends(qwen_like)
    assert {"<|im_start|>", "<tool_call>", "</think>"} <= set(ends)
    assert not {"<|im_end|>", "<|im_end|>\n", "word", "  1", "é"} & set(ends)
    assert segment_ends(demo)


def test_a_tokenizer_that_marks_the_beginning_of_a_text_is_not_cut() -> None:
    tokenizer = Tokenizer(models.BPE({"\u2581": 0, "a": 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>"])
    assert segment_ends(tokenizer) == []
    check(tokenizer, ["a<s>a<s>", "aa" * 60])


def test_a_conversation_that_goes_on_is_tokenized_from_where_it_goes_on(
    byte_level_tokenizer: Tokenizer,
) -> None:
    seen: list[str] = []

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(byte_level_tokenizer, name)

        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> object:
            seen.extend(texts)
            return byte_level_tokenizer.encode_batch_fast(
                texts, add_special_tokens=add_special_tokens
            )

    segmented = SegmentedTokenizer(Watched(), SegmentCache())  # type: ignore[arg-type]
    turn = "<|im_start|>user\n" + "tell me more " * 20 + "<|im_end|>\n"
    prompt = turn + "<|im_start|>assistant\n"
    segmented.tokens(prompt, "")
    seen.clear()
    answer = "with pleasure " * 20 + "<|im_end|>\n"
    segmented.tokens(prompt + answer + prompt, "")
    assert "tell me more" not in "".join(seen)
    assert sum(map(len, seen)) < len(answer) + 100
    seen.clear()
    segmented.tokens(prompt, "another salt")
    assert "tell me more" in "".join(seen)


def test_the_cache_keeps_what_was_used_last() -> None:
    cache = SegmentCache(max_characters=10 * MIN_SEGMENT_CHARACTERS)
    names = [str(number) * MIN_SEGMENT_CHARACTERS for number in range(10)]
    for name in names:
        cache.put("", name, (1,))
    assert cache.get("", names[0]) == (1,)
    cache.put("", "x" * MIN_SEGMENT_CHARACTERS, (2,))
    assert cache.get("", names[0]) == (1,)
    assert cache.get("", names[1]) is None
    assert cache.get("s", names[0]) is None
    cache.check_integrity()
