"""What a request asked to have kept is there when its session comes back."""

import math
from dataclasses import replace

import pytest


def cached_later(drive, oracle, make_request, make_prompt, keep_s: float, pause_s: float) -> int:
    """Cached tokens of a session's prompt when as many others came as the pool has room for."""
    driver = drive(oracle.model, num_blocks=32)
    session = make_prompt(64)
    driver.engine.add(replace(make_request(0, session, 4), keep_s=keep_s))
    driver.run()
    driver.clock.advance(pause_s)
    for i in range(1, 5):
        driver.engine.add(make_request(i, make_prompt(160, i), 4))
        driver.run()
    cached = driver.engine.add(make_request(9, (*session, 7), 1))
    driver.run()
    return cached


@pytest.mark.parametrize(
    ("keep_s", "pause_s", "cached"),
    [(0.0, 0.0, 0), (60.0, 0.0, 64), (60.0, 61.0, 0), (math.inf, 3000.0, 64), (math.nan, 0.0, 0)],
)
def test_a_sessions_blocks_stay_until_the_time_it_asked_for(
    oracle, drive, make_request, make_prompt, keep_s, pause_s, cached
) -> None:
    assert cached_later(drive, oracle, make_request, make_prompt, keep_s, pause_s) == cached


def test_a_cancelled_answer_is_kept_only_if_it_had_begun(
    oracle, drive, make_request, make_prompt
) -> None:
    driver = drive(oracle.model, num_blocks=32)
    for i in (0, 1):
        driver.engine.add(replace(make_request(i, make_prompt(64, i), 40), keep_s=60.0))
    driver.engine.cancel(1)
    driver.step()
    driver.step()
    driver.engine.cancel(0)
    for i in range(2, 5):
        driver.engine.add(make_request(i, make_prompt(160, i), 4))
        driver.run()
    cached = [driver.engine.add(make_request(7 + i, (*make_prompt(64, i), 7), 1)) for i in range(2)]
    assert cached == [64, 0]
    driver.run()
