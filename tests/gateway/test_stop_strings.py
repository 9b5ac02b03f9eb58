"""Stop strings: found wherever the text is cut, never sent, not even in part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.stop_strings import StopMatcher

TEXT = st.text("ab.", max_size=30)
STOPS = st.lists(st.text("ab.", min_size=1, max_size=5), max_size=4)


def first_stop(text: str, stops: list[str]) -> str | None:
    """The text before the stop string that is complete first; None when there is none."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return None


@given(text=TEXT, stops=STOPS, cuts=st.lists(st.integers(0, 30), max_size=6))
def test_the_text_let_through_is_the_same_however_it_was_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    before = first_stop(text, stops)
    expected = text if before is None else before
    matcher, sent, stopped = StopMatcher(stops), "", False
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    for start, end in zip(bounds, bounds[1:], strict=False):
        piece, stopped = matcher.push(text[start:end])
        sent += piece
        assert expected.startswith(sent), "a stop string or its beginning was sent"
        if stopped:
            break
    assert stopped == (before is not None)
    assert sent + ("" if stopped else matcher.flush()) == expected


@pytest.mark.parametrize(
    ("stops", "pieces", "sent"),
    [
        (["END"], ["some E", "N", "D more"], ["some ", "", ""]),
        (["END"], ["E", "NE", "ND"], ["", "EN", ""]),
        (["\n\n"], ["a\n", "b\n", "\nc"], ["a", "\nb", ""]),
        (["ab", "b"], ["xa", "b"], ["x", ""]),
    ],
)
def test_a_possible_beginning_is_held_back_until_it_is_decided(
    stops: list[str], pieces: list[str], sent: list[str]
) -> None:
    matcher = StopMatcher(stops)
    assert [matcher.push(piece)[0] for piece in pieces] == sent


def test_text_that_was_held_back_comes_out_at_the_end() -> None:
    matcher = StopMatcher(["STOP"])
    assert matcher.push("do not ST") == ("do not ", False)
    assert matcher.flush() == "ST"
    assert matcher.flush() == ""
