"""Drafts from the text itself."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from engine.speculation.lookup import look_up


def found(tokens: list[int], count: int = 4) -> list[int]:
    return list(look_up(array("I", tokens), count))


def longest_agreement(tokens: list[int], at: int) -> int:
    """How many tokens before `at` agree with the end, at most 8."""
    length = 0
    while length < min(at, 8) and tokens[at - 1 - length] == tokens[-1 - length]:
        length += 1
    return length


def test_a_phrase_that_comes_again_goes_on_as_it_did() -> None:
    assert found([5, 6, 7, 8, 9, 1, 2, 5, 6], 3) == [7, 8, 9]


def test_the_longest_agreement_wins_over_a_later_shorter_one() -> None:
    assert found([1, 2, 3, 40, 0, 2, 3, 50, 1, 2, 3], 1) == [40]


def test_of_equal_agreements_the_latest_wins() -> None:
    assert found([1, 2, 40, 1, 2, 50, 1, 2], 1) == [50]


def test_a_text_that_repeats_itself_is_guessed_to_go_on_so() -> None:
    assert found([9, 1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]
    assert found([4, 4, 4], 5) == [4] * 5


def test_a_single_token_that_agrees_is_no_reason_to_guess() -> None:
    assert found([1, 2, 3, 2]) == []
    assert found([1]) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9))
def test_a_guess_continues_the_latest_of_the_longest_agreements(
    tokens: list[int], count: int
) -> None:
    lengths = [longest_agreement(tokens, at) for at in range(1, len(tokens))]
    best = max(lengths, default=0)
    if best < 2:
        assert found(tokens, count) == []
        return
    at = max(at for at, length in enumerate(lengths, 1) if length == best)
    known = tokens.copy()
    while len(known) < len(tokens) + count:
        known.append(known[at + len(known) - len(tokens)])
    assert found(tokens, count) == known[len(tokens) :]
