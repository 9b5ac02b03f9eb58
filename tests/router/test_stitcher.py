"""One answer out of legs that repeat, run ahead and break off."""

from hypothesis import given
from hypothesis import strategies as st

from router.stitcher import Stitcher

pieces = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=30)


@given(pieces)
def test_each_token_is_given_once_and_in_order(spans):
    answer = list(range(100, 130))
    stitcher = Stitcher()
    given_out = []
    known = set()
    for index, count in spans:
        tokens = answer[index : index + count]
        given_out += stitcher.push(index, tokens)
        known |= set(range(index, index + len(tokens)))
        reach = next(i for i in range(31) if i not in known)
        assert given_out == answer[:reach] == list(stitcher.sent)
        assert stitcher.num_sent == reach
        assert stitcher.has_gap == any(i > reach for i in known)


def test_forgotten_early_tokens_are_taken_again():
    stitcher = Stitcher()
    assert stitcher.push(2, (12,)) == ()
    stitcher.forget_early()
    assert not stitcher.has_gap
    assert stitcher.push(0, (10, 11)) == (10, 11)
    assert stitcher.push(2, (12, 13)) == (12, 13)
