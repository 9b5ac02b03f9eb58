"""A request that no batch has room for waits for it, as long as it can afford to."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from router.prospects import Crowded
from runtime.clock import Clock

_LOOK_AGAIN_S = 0.05  # for room in a batch; each time that there is none, later
_MAX_LOOK_AGAIN_S = 0.5
_LOOK_LESS_OFTEN = 1.25
_PATIENCE_S = 2.0  # prompts that could wait longer are long ones, which would crowd out the others
Answer = TypeVar("Answer")


async def ask_patiently(ask: Callable[[], Answer], clock: Clock) -> Answer:
    """What `ask` gives. Raises what it raises; Crowded after 2 s, or when the slack is spent."""
    pause_s, until_s = _LOOK_AGAIN_S, clock.now() + _PATIENCE_S
    while True:
        try:
            return ask()
        except Crowded as refusal:
            if min(refusal.slack_s, until_s - clock.now()) <= pause_s:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(_MAX_LOOK_AGAIN_S, _LOOK_LESS_OFTEN * pause_s)
