"""The alarm rings once, in time, also where there is no timerfd."""

import asyncio
import ctypes
from typing import Any

import pytest

from loadtest.alarm import Alarm


class NoTimerfd:
    """The C library of another system."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass


@pytest.fixture(params=["timerfd", "loop"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "loop":
        monkeypatch.setattr(ctypes, "CDLL", NoTimerfd)


async def rung(alarm: Alarm, event: asyncio.Event) -> None:
    await event.wait()
    event.clear()


async def test_an_alarm_rings_after_its_wait(system: None, tools: Any) -> None:
    event = asyncio.Event()
    alarm = Alarm(event.set)
    for wait_s in (0.03, 0.0, -1.0):
        began = tools.clock.now()
        alarm.set(wait_s)
        await rung(alarm, event)
        assert tools.clock.now() - began >= wait_s - 0.002
    alarm.close()


async def test_an_alarm_that_is_moved_rings_once(system: None) -> None:
    times: list[int] = []
    event = asyncio.Event()

    def ring() -> None:
        times.append(1)
        event.set()

    alarm = Alarm(ring)
    alarm.set(0.0)
    alarm.set(60.0)
    alarm.set(0.02)
    await event.wait()
    await asyncio.sleep(0.03)
    assert times == [1]
    alarm.close()


async def test_a_closed_alarm_is_silent(system: None) -> None:
    times: list[int] = []
    alarm = Alarm(lambda: times.append(1))
    alarm.set(0.01)
    alarm.close()
    alarm.close()
    await asyncio.sleep(0.03)
    assert times == []
