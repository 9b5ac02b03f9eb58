"""The pieces of an incremental detokenizer, joined, are the tokenizer's own decoding."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from gateway.detokenizer import REPLACEMENT, DetokenizerFactory

UNICODE = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


def decoder_of(tokenizer: Tokenizer) -> dict[str, object]:
    return json.loads(tokenizer.to_str())["decoder"] or {}


def byte_fallback_tokenizer(decoder: decoders.Decoder) -> Tokenizer:
    """Like Llama 2's: spaces are U+2581, characters outside the vocabulary become bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["\u2581", *"abcdefghijklmnopqrstuvwxyz", "\u2581a", "th", "\u2581th", "<0xZZ>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    merges = [("\u2581", "a"), ("t", "h"), ("\u2581", "th")]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")]
    )
    return tokenizer


LLAMA_DECODER = decoders.Sequence(
    [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
)


@pytest.fixture(scope="module")
def llama() -> Tokenizer:
    return byte_fallback_tokenizer(LLAMA_DECODER)


@pytest.fixture(scope="module")
def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(
            {"\u2581": 0, "a": 1, "b": 2, "\u2581a": 3, "ab": 4}, [("\u2581", "a"), ("a", "b")]
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def pieces(tokenizer: Tokenizer, tokens: list[int], at_once: int = 1) -> list[str]:
    detokenizer = DetokenizerFactory(tokenizer, decoder_of(tokenizer)).open()
    groups = [tokens[at : at + at_once] for at in range(0, len(tokens), at_once)]
    return [*(detokenizer.push(group) for group in groups), detokenizer.flush()]


@pytest.mark.parametrize("name", ["byte_level_tokenizer", "llama", "metaspace"])
@given(data=st.data())
def test_the_text_does_not_depend_on_how_many_tokens_come_at_once(
    request: pytest.FixtureRequest, name: str, data: st.DataObject
) -> None:
    tokenizer = request.getfixturevalue(name)
    ids = st.integers(0, tokenizer.get_vocab_size() - 1)
    tokens = data.draw(st.lists(ids, max_size=40))
    at_once = data.draw(st.integers(2, 9))
    assert "".join(pieces(tokenizer, tokens, at_once)) == "".join(pieces(tokenizer, tokens))


@given(data=st.data())
def test_byte_level_pieces_join_to_the_decoding_of_any_token_ids(
    byte_level_tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = st.integers(0, byte_level_tokenizer.get_vocab_size() - 1)
    tokens = data.draw(st.lists(ids, max_size=40))
    assert "".join(pieces(byte_level_tokenizer, tokens)) == byte_level_tokenizer.decode(tokens)


@given(text=UNICODE)
def test_byte_level_pieces_of_a_text_never_split_a_character(
    byte_level_tokenizer: Tokenizer, text: str
) -> None:
    found = pieces(byte_level_tokenizer, byte_level_tokenizer.encode(text).ids)
    assert "".join(found) == text
    assert text.count(REPLACEMENT) == sum(piece.count(REPLACEMENT) for piece in found)


@given(text=UNICODE)
def test_byte_fallback_pieces_join_to_the_decoding_of_a_text(llama: Tokenizer, text: str) -> None:
    tokens = llama.encode(text).ids
    assert "".join(pieces(llama, tokens)) == llama.decode(tokens)


@given(
    tokens=st.lists(
        st.one_of(
            st.integers(259, 289).map(lambda token: [token]),
            st.characters(exclude_categories=("Cs",)).map(
                lambda character: [3 + byte for byte in character.encode()]
            ),
            st.sampled_from([[0], [1], [2]]),
        ),
        max_size=30,
    ).map(lambda groups: [token for group in groups for token in group])
)
def test_byte_fallback_pieces_join_to_the_decoding_of_whole_characters(
    llama: Tokenizer, tokens: list[int]
) -> None:
    assert "".join(pieces(llama, tokens)) == llama.decode(tokens)


def test_byte_fallback_gives_each_character_as_its_last_byte_arrives(llama: Tokenizer) -> None:
    rocket = [3 + byte for byte in "🚀".encode()]
    assert pieces(llama, rocket + rocket) == ["", "", "", "🚀", "", "", "", "🚀", ""]


def test_an_incomplete_character_at_the_end_becomes_a_replacement_character(
    llama: Tokenizer, byte_level_tokenizer: Tokenizer
) -> None:
    assert pieces(llama, [3 + 0xE6, 3 + 0x9D])[-1] == REPLACEMENT
    cut = byte_level_tokenizer.encode("🦜").ids[:-1]
    assert "".join(pieces(byte_level_tokenizer, cut)) == byte_level_tokenizer.decode(cut)


def test_only_the_first_space_of_a_sentencepiece_answer_is_dropped(llama: Tokenizer) -> None:
    tokens = [llama.token_to_id(token) for token in ("\u2581a", "\u2581a", "\u2581", "\u2581")]
    assert pieces(llama, tokens) == ["a", " a", " ", " ", ""]


def test_special_tokens_give_no_text_and_other_added_tokens_do(
    byte_level_tokenizer: Tokenizer,
) -> None:
    ids = [byte_level_tokenizer.token_to_id(token) for token in ("<|im_start|>", "<think it>")]
    assert pieces(byte_level_tokenizer, ids) == ["", "<think it>", ""]


def test_an_unknown_token_id_gives_no_text(byte_level_tokenizer: Tokenizer) -> None:
    assert pieces(byte_level_tokenizer, [10_000_000]) == ["", ""]


@given(tokens=st.lists(st.integers(0, 4), max_size=20))
def test_an_unknown_kind_of_decoder_is_followed_through_a_window(
    metaspace: Tokenizer, tokens: list[int]
) -> None:
    assert "".join(pieces(metaspace, tokens)) == metaspace.decode(tokens)


@given(text=UNICODE)
def test_a_window_over_byte_fallback_joins_to_the_decoding_of_a_text(text: str) -> None:
    tokenizer = byte_fallback_tokenizer(
        decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    )
    tokens = tokenizer.encode(text).ids
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@given(data=st.data())
def test_added_tokens_among_bytes_join_to_the_decoding(
    byte_level_tokenizer: Tokenizer, data: st.DataObject
) -> None:
    """Also those that are written with letters that stand for bytes elsewhere."""
    tokenizer = Tokenizer.from_str(byte_level_tokenizer.to_str())
    contents = ["é", "naïve token", "日本", "Ġ", " lead", "<|x|>"]
    tokenizer.add_tokens([AddedToken(content, special=False) for content in contents])
    ids = [*range(3, 300), *map(tokenizer.token_to_id, contents)]
    added = st.sampled_from(ids[-len(contents) :])
    tokens = data.draw(st.lists(st.one_of(added, st.sampled_from(ids)), max_size=30))
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@given(data=st.data())
def test_added_tokens_among_sentencepieces_join_to_the_decoding(
    llama: Tokenizer, data: st.DataObject
) -> None:
    """Chat models of this family add theirs: with spaces, with U+2581, of several bytes."""
    tokenizer = Tokenizer.from_str(llama.to_str())
    contents = ["<tool>", " lead", "\u2581mark", "日本", "<0x41>x", "é"]
    tokenizer.add_tokens([AddedToken(content, special=False) for content in contents])
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    added = [*map(tokenizer.token_to_id, contents), tokenizer.token_to_id("<|end|>")]
    pieces_of = st.lists(
        st.one_of(
            st.sampled_from(added),
            st.integers(259, 289),
            st.sampled_from([0, 1, 2]),
        ).map(lambda token: [token])
        | st.characters(exclude_categories=("Cs",)).map(
            lambda character: [3 + byte for byte in character.encode()]
        ),
        max_size=30,
    )
    tokens = [token for group in data.draw(pieces_of) for token in group]
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@given(data=st.data())
def test_added_tokens_among_metaspaces_join_to_the_decoding(
    metaspace: Tokenizer, data: st.DataObject
) -> None:
    tokenizer = Tokenizer.from_str(metaspace.to_str())
    contents = ["<tool>", "日本", "🚀"]
    tokenizer.add_tokens([AddedToken(content, special=False) for content in contents])
    ids = [*range(5), *map(tokenizer.token_to_id, contents)]
    tokens = data.draw(st.lists(st.sampled_from(ids), max_size=20))
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@given(text=UNICODE)
def test_no_character_of_an_answer_is_written_twice_or_taken_back(
    byte_level_tokenizer: Tokenizer, llama: Tokenizer, text: str
) -> None:
    """What has been sent is always the beginning of the whole text."""
    for tokenizer in (byte_level_tokenizer, llama):
        tokens = tokenizer.encode(text).ids
        whole, sent = tokenizer.decode(tokens), ""
        for piece in pieces(tokenizer, tokens):
            sent += piece
            assert whole.startswith(sent)
        assert sent == whole
