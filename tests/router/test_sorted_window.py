"""The last numbers of a series, kept in order, against sorting them each time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sorted_window import SortedWindow


@given(st.lists(st.floats(0.1, 9.0) | st.sampled_from([1.0, 2.0]), min_size=1), st.integers(1, 9))
def test_the_window_holds_the_last_numbers_by_size(values, size):
    window = SortedWindow(size)
    for number, value in enumerate(values, 1):
        window.add(value)
        last = sorted(values[max(0, number - size) : number])
        assert window.values() == tuple(last) and len(window) == len(last)
        for share in (0.0, 0.5, 0.85):
            assert window.at_share(share) == last[int(share * len(last))]
            assert window.quantile(share) == pytest.approx(np.quantile(last, share))
