"""Workers that only beat: many registrations in one process, as `bench control` starts it.

beating.py PORT FIRST COUNT [--apart]

With --apart each has a connection of its own, to an address of the loopback of its own; without,
one carries them all.
"""

import asyncio
import sys
from dataclasses import replace
from itertools import count as counter

from baton.bench.control import beat_of
from wire.cluster import WorkerBeat
from worker.registration import BEAT_INTERVAL_S, Registration


async def main(port: str, first: int, count: int, is_apart: bool) -> None:
    """Workers as the product has them: they beat as often as the control plane asks."""

    shared = f"127.0.0.1:{port}"

    async def live(number: int) -> None:
        await asyncio.sleep(BEAT_INTERVAL_S * (number - first) / count)
        address = f"127.0.{number // 250}.{number % 250 + 1}:{port}" if is_apart else shared
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
    port, first, count, *how = sys.argv[1:]
    asyncio.run(main(port, int(first), int(count), how == ["--apart"]))
