"""Stretches of steps: the step at a time, and the end of every step."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simulate.step_log import StepLog, steps_begun, stretch_end_s

SECONDS = st.floats(1e-4, 0.1)


@given(SECONDS, st.floats(0, 1e-3), st.floats(0, 20.0))
def test_the_step_that_runs_ends_after_now_and_the_one_before_does_not(base_s, slope_s, passed_s):
    number = steps_begun(5.0, base_s, slope_s, 5.0 + passed_s)
    assert stretch_end_s(5.0, base_s, slope_s, number) > 5.0 + passed_s
    assert number == 1 or stretch_end_s(5.0, base_s, slope_s, number - 1) <= 5.0 + passed_s


@given(st.lists(st.tuples(SECONDS, st.floats(0, 1e-3), st.integers(1, 80)), min_size=1), st.data())
def test_step_ends_are_those_of_adding_up_step_by_step(stretches, data):
    log, ends, now_s = StepLog(), [], 0.0
    for base_s, slope_s, count in stretches:
        log.append(now_s, base_s, slope_s, count)
        for number in range(count):
            now_s += base_s + slope_s * number
            ends.append(now_s)
    first = data.draw(st.integers(1, len(ends)))
    last = data.draw(st.integers(first, len(ends)))
    np.testing.assert_allclose(log.ends_s(first, last), ends[first - 1 : last], rtol=1e-9)


def test_forgotten_steps_leave_the_later_ones_as_they_were():
    log = StepLog()
    for number in range(1, 6001):
        log.append(float(number), 1.0, 0.0, 1)
    assert log.is_long
    log.forget_before(5990)
    np.testing.assert_array_equal(log.ends_s(5990, 6000), np.arange(5991.0, 6002.0))
    assert len(log) < 20
