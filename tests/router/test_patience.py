"""Waiting for room in a batch."""

import asyncio

import pytest

from router.patience import ask_patiently
from router.prospects import Crowded
from simulate.event_loop import EventLoop


def outcome(num_refusals, slack_s):
    """The answer or None, and the virtual seconds until it."""
    loop = EventLoop()
    refusals, ended = iter(range(num_refusals)), []

    def ask():
        if next(refusals, None) is not None:
            raise Crowded("no room", 1.0, slack_s - loop.now())
        return "here"

    async def run():
        try:
            answer = await ask_patiently(ask, loop)
        except Crowded:
            answer = None
        ended.append((answer, loop.now()))

    loop.create_task(run())
    loop.run(lambda: None)
    return ended[0]


def test_who_is_taken_at_once_does_not_wait():
    assert outcome(0, 10.0) == ("here", 0.0)


def test_room_that_comes_within_the_slack_is_found_soon():
    answer, at_s = outcome(3, 1.0)
    assert answer == "here"
    assert at_s == pytest.approx(0.05 * (1 + 1.25 + 1.25**2))


@pytest.mark.parametrize(("slack_s", "last_s"), [(0.0, 0.0), (0.5, 0.5), (60.0, 2.0)])
def test_nobody_waits_longer_than_its_slack_or_two_seconds(slack_s, last_s):
    answer, at_s = outcome(1000, slack_s)
    assert answer is None
    assert at_s <= last_s


def test_any_other_failure_is_not_waited_for():
    def ask():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(ask_patiently(ask, EventLoop()))
