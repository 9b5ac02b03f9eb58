"""A control plane that stops itself between the confirmation of its first order and the order.

fenced_plane.py REDIS_URL IDENTITY LEASE_S PORT flip|wait [WORKER]
"""

import asyncio
import os
import signal
import sys

from redis.asyncio import Redis

from control_plane.config import ControlConfig
from control_plane.server import ControlServer
from control_plane.state.redis_lease import RedisLeadership
from runtime.clock import SystemClock
from wire.cluster import ControlOrder, OrderKind
from wire.messages import Role


class StandingStill(RedisLeadership):
    """Stands still (SIGSTOP) when it has confirmed its term."""

    async def confirm(self) -> int:
        token = await super().confirm()
        os.kill(os.getpid(), signal.SIGSTOP)
        return token


async def main(url: str, identity: str, lease_s: str, port: str, what: str) -> None:
    redis = Redis.from_url(url, socket_timeout=0.5)
    kind = StandingStill if what == "flip" else RedisLeadership
    leadership = kind(redis, "test", identity, SystemClock(), float(lease_s))
    config = ControlConfig(port=int(port), http_port=-1, settle_s=0.0, beat_timeout_s=60.0)
    server = ControlServer(config, SystemClock(), leadership=leadership)
    await server.start()
    while what == "flip" and not server.serving():
        await asyncio.sleep(0.01)
    if what == "flip":
        order = ControlOrder(OrderKind.FLIP, Role.PREFILL)
        await server.plane.command("decode-0", order)
        print("ordered", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
