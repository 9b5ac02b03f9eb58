"""Workers that only beat: many registrations in one process, as `bench control` starts it.

beating.py ADDRESS FIRST COUNT
"""

import asyncio
import sys
from dataclasses import replace
from itertools import count as counter

from baton.bench.control import beat_of
from wire.cluster import WorkerBeat
from worker.registration import BEAT_INTERVAL_S, Registration


async def main(address: str, first: int, count: int) -> None:
    """Workers as the product has them: they beat as often as the control plane asks."""

    async def live(number: int) -> None:
        await asyncio.sleep(BEAT_INTERVAL_S * (number - first) / count)
        await Registration(address, "", _Reports(number), lambda order: None).run()

    await asyncio.gather(*(live(number) for number in range(first, first + count)))


class _Reports:
    """The report differs from beat to beat, the rest does not."""

    def __init__(self, number: int) -> None:
        self._beat = beat_of(number)
        self._steps = counter(0, 20)

    def __call__(self) -> WorkerBeat:
        return replace(self._beat, report=replace(self._beat.report, num_steps=next(self._steps)))


if __name__ == "__main__":
    address, first, count = sys.argv[1:]
    asyncio.run(main(address, int(first), int(count)))
