"""What wakes a mailbox's reader."""

import asyncio

import pytest

from router.event_pause import event_pause_s
from router.mailbox import Mailbox

_LONG_S = 60.0


def _is_low(item: int) -> bool:
    return item < 10


async def test_without_a_pause_each_turn_is_taken_as_it_comes():
    mailbox: Mailbox[int] = Mailbox()
    for item in (1, 2, 3):
        mailbox.put(item)
        assert await asyncio.wait_for(mailbox.take(), 30) == [item]


async def test_what_can_wait_goes_together_when_the_pause_is_over():
    mailbox: Mailbox[int] = Mailbox(lambda: 0.05, _is_low)
    mailbox.put(1)
    assert await asyncio.wait_for(mailbox.take(), 30) == [1]
    mailbox.put(2)
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.put(3)
    assert await asyncio.wait_for(reader, 30) == [2, 3]


async def test_what_cannot_wait_takes_what_waits_with_it_in_order():
    mailbox: Mailbox[int] = Mailbox(lambda: _LONG_S, _is_low)
    mailbox.put(1)
    assert await asyncio.wait_for(mailbox.take(), 30) == [1]
    mailbox.put(2)
    mailbox.put(10)
    mailbox.put(3)
    assert await asyncio.wait_for(mailbox.take(), 30) == [2, 10, 3]


async def test_the_first_that_can_wait_does_not_wait_behind_what_cannot():
    mailbox: Mailbox[int] = Mailbox(lambda: _LONG_S, _is_low)
    mailbox.put(10)
    assert await asyncio.wait_for(mailbox.take(), 30) == [10]
    mailbox.put(1)
    assert await asyncio.wait_for(mailbox.take(), 30) == [1]


async def test_a_cancelled_reader_loses_nothing():
    mailbox: Mailbox[int] = Mailbox(lambda: _LONG_S, _is_low)
    mailbox.put(1)
    await mailbox.take()
    mailbox.put(2)
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait({reader})
    mailbox.put(10)
    assert await asyncio.wait_for(mailbox.take(), 30) == [2, 10]


@pytest.mark.parametrize(
    ("num_answers", "pause_s"), [(1, 0.005), (25, 0.005), (64, 0.0128), (100, 0.02), (10_000, 0.02)]
)
def test_the_pause_grows_with_the_answers_under_way_and_has_an_end(
    num_answers: int, pause_s: float
):
    assert event_pause_s(0.005, num_answers) == pytest.approx(pause_s)
