"""A control plane with 1,000 modelled workers and a dashboard, as a process: prints its address.

The registry is real and is fed a beat a worker every 250 ms, whose load moves; each decode worker
has measured 20 pairs. Runs until its standard input ends.
"""

import asyncio
import random
import sys
from dataclasses import replace

from control_plane.config import ControlConfig
from control_plane.server import ControlServer
from dashboard.config import DashboardConfig
from dashboard.server import DashboardServer
from runtime.clock import SystemClock
from runtime.log import configure
from wire.cluster import Fingerprint, PairStatus, WorkerBeat, WorkerInfo
from wire.kv import FabricAddress
from wire.messages import Role, WorkerReport

NUM_PREFILL, NUM_DECODE, NUM_BLOCKS, PERIOD_S, SLICES = 300, 700, 50_000, 0.25, 10


def worker(role: Role, number: int, rng: random.Random) -> WorkerInfo:
    pairs = tuple(
        PairStatus(
            f"prefill-{source}",
            rng.uniform(2e-5, 9e-5),
            rng.uniform(20e9, 45e9),
            "shm" if rng.random() < 0.99 else "tcp",
            wanted_transport="shm",
        )
        for source in sorted(rng.sample(range(NUM_PREFILL), 20))
    )
    return WorkerInfo(
        f"{role.value}-{number}",
        1,
        role=role,
        address=f"10.0.{number // 250}.{number % 250}:7000",
        fabric=FabricAddress("127.0.0.1", 7001, "host", "", ("shm",)),
        fingerprint=Fingerprint("model", "r1", "bfloat16", 16, "L2H2B16D16:bfloat16"),
        max_model_len=131_072,
        num_blocks=NUM_BLOCKS,
        pairs=pairs if role is Role.DECODE else (),
    )


def report(role: Role, rng: random.Random) -> WorkerReport:
    return WorkerReport(
        role,
        num_running=rng.randrange(64),
        num_waiting=rng.randrange(4),
        num_blocks=NUM_BLOCKS,
        num_free_blocks=rng.randrange(NUM_BLOCKS),
        context_tokens=rng.randrange(500_000),
        step_s=rng.uniform(0.01, 0.03),
    )


async def beat_all(server: ControlServer, infos: list[WorkerInfo], rng: random.Random) -> None:
    """In slices, so that nobody waits long for the loop. Every second two workers flip."""
    rounds = 0
    while True:
        for offset in range(SLICES):
            for info in infos[offset::SLICES]:
                server.registry.beat(WorkerBeat(info, report(info.role, rng)))
            await asyncio.sleep(PERIOD_S / SLICES)
        rounds += 1
        if rounds % 4 == 0:
            for index in rng.sample(range(len(infos)), 2):
                other = Role.DECODE if infos[index].role is Role.PREFILL else Role.PREFILL
                epoch = infos[index].role_epoch + 1
                infos[index] = replace(infos[index], role=other, role_epoch=epoch)


async def main() -> None:
    configure("thousand", level="warning")  # to standard error
    rng = random.Random(7)
    server = ControlServer(
        ControlConfig(port=0, settle_s=0.0, operator_token="secret", beat_timeout_s=30.0),
        SystemClock(),
    )
    await server.start()
    infos = [worker(Role.PREFILL, i, rng) for i in range(NUM_PREFILL)]
    infos += [worker(Role.DECODE, i, rng) for i in range(NUM_DECODE)]
    beating = asyncio.create_task(beat_all(server, infos, rng))
    page = DashboardServer(
        DashboardConfig(
            port=0, operator_url=f"http://127.0.0.1:{server.http_port}", gateway_urls=""
        ),
        SystemClock(),
    )
    await page.start()
    print(page.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    await page.stop()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
