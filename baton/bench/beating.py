"""Workers that only beat: many Register streams from one process, as `bench control` starts it.

beating.py ADDRESS FIRST COUNT PERIOD_S
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

from baton.bench.control import beat_of
from wire.cluster import WorkerBeat
from wire.rpc import RpcError, open_channel, register

_STREAMS_PER_CHANNEL = 100


async def main(address: str, first: int, count: int, period_s: float) -> None:
    channels = [open_channel(address) for _ in range(-(-count // _STREAMS_PER_CHANNEL))]

    async def live(number: int) -> None:
        channel = channels[number // _STREAMS_PER_CHANNEL]
        await asyncio.sleep(period_s * number / count)
        while True:
            with contextlib.suppress(RpcError):
                async for _ in register(channel, _beats(first + number, period_s)):
                    pass
            await asyncio.sleep(period_s)

    await asyncio.gather(*(live(number) for number in range(count)))


async def _beats(number: int, period_s: float) -> AsyncIterator[WorkerBeat]:
    """The report differs from beat to beat, the rest does not."""
    beat = beat_of(number)
    steps = 0
    while True:
        steps += 20
        yield WorkerBeat(beat.info, replace(beat.report, num_steps=steps))
        await asyncio.sleep(period_s)


if __name__ == "__main__":
    address, first, count, period_s = sys.argv[1:]
    asyncio.run(main(address, int(first), int(count), float(period_s)))
